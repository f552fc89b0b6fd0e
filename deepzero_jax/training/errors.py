"""How a run may end before its last step."""

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
