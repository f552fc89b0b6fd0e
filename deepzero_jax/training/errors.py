"""How a run may end before its last step."""

from collections.abc import Mapping

from deepzero_jax.blackbox import failure


class NonFiniteError(ArithmeticError):
    """A step gave a loss or parameters that are not finite; the last good checkpoint is kept."""


class StepFailedError(RuntimeError):
    """A black box in the loss gave no answer; the state before the step is kept."""


class InterruptedRunError(Exception):
    """A signal asked the run to stop; it is saved.

    Attributes:
      signum: the signal.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


def black_box_failure(error: BaseException) -> str | None:
    """What a black box said, if it is what made a computation fail."""
    return failure(error)


def remedy(settings: Mapping[str, object], unanswered: int) -> str:
    """Against a loss or parameters that are not finite.

    Args:
      settings: of the estimator.
      unanswered: samples that a box left without an answer in the step.
    """
    if unanswered:
        return (
            f"In this step the black box left {unanswered:,} samples without an answer, which are "
            "NaN: leave them out of the loss (jnp.nanmean), give the box more retries, or "
            'on_failure="raise", which says why'
        )
    # Where losses at moved parameters are subtracted, one that does not move has no slope.
    subtracts = settings.get("reuse") in ("none", "split")
    swallowed = ", or raise it where parameters are too large to move by it,"
    swallowed = swallowed if subtracts else ""
    return f"Lower the learning rate or the smoothing{swallowed} in a new run"
