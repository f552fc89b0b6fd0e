"""The black boxes of a run: what it asks of them, beforehand and in all."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax

from deepzero_jax.blackbox import BlackBox, BlackBoxError, boxes_asked
from deepzero_jax.estimators import AutodiffEstimator, Estimator, Loss, num_queries
from deepzero_jax.sampling import Selection
from deepzero_jax.types import Array, Params, PyTree

if TYPE_CHECKING:
    from deepzero_jax.training.step import CompiledStep, TrainState


class Boxes(NamedTuple):
    """The boxes in the loss of a run.

    Attributes:
      samples: ``{box: samples that one evaluation of the loss sends}``, in the order in which
        the loss asks them; with ``of_step``, that a step sends. 0 of boxes ``beside``.
      of_step: a step is one estimate, whatever it is charged with: autodiff, through
        ``differentiable`` or an estimate inside the loss.
    """

    samples: Mapping[BlackBox, int]
    of_step: bool = False

    @classmethod
    def of(cls, loss: Loss, params: Params, estimator: Estimator | None = None) -> "Boxes":
        """Found in the trace of a loss, or of its estimate where that is by autodiff.

        **Cost**: one trace, no query.
        """
        autodiff = estimator if isinstance(estimator, AutodiffEstimator) else None

        def call(params: Params, arrays: list[Array]) -> PyTree:
            at = loss.with_arrays(arrays)
            return autodiff.estimate(at, params, None, None) if autodiff else at.output(params)

        return cls.of_call(call, params, loss.arrays())._replace(of_step=autodiff is not None)

    @classmethod
    def of_call(cls, fun: Callable[..., PyTree], *args: PyTree) -> "Boxes":
        """Found in the trace of any function of arrays."""
        return cls(boxes_asked(jax.make_jaxpr(fun)(*args).jaxpr.eqns))

    def beside(self, others: Sequence[BlackBox]) -> "Boxes":
        """These boxes, and behind them others that the loss does not ask."""
        more = {box: 0 for box in others if box not in self.samples}
        return self._replace(samples={**self.samples, **more})

    @property
    def in_loss(self) -> bool:
        """Whether the loss asks any of them."""
        return any(self.samples.values())

    @property
    def num_known(self) -> int:
        """Samples that these boxes have been sent, in all processes whose counts they hold."""
        return sum(box.num_samples for box in self.samples)

    def num_samples(self, num_queries: int) -> int:
        """That a step sends which is charged with so many queries."""
        return sum(self.sent(num_queries).values())

    def sent(self, num_queries: int) -> dict[BlackBox, int]:
        """``{box: samples}`` of a step that is charged with so many queries."""
        times = 1 if self.of_step else num_queries
        return {box: times * samples for box, samples in self.samples.items()}

    def affordable(self, step: "CompiledStep", state: "TrainState") -> Selection | None:
        """The coordinates of the coming step; None, for the step's own, where no box has a budget.

        Raises:
          BlackBoxError: a budget that does not hold the step.
        """
        if all(box.budget is None for box in self.samples):
            return None
        selection = step.select(state)
        self.check(num_queries(step.step.estimator, state.params, selection.coordinates))
        return selection

    def check(self, num_queries: int) -> None:
        """Raises BlackBoxError unless every budget holds so many evaluations of the loss."""
        check_budgets(self.sent(num_queries), "it sends")

    def dump(self) -> list[dict[str, int | None]]:
        """Counts and budgets, as a checkpoint is to hold them."""
        return [{**box.counts(), "budget": box.budget} for box in self.samples]

    def load(self, saved: Sequence[Mapping[str, int | None]]) -> None:
        """Takes over counts; of a box that has counted on in this process, the larger ones.

        Budgets are not taken over: a run goes on with the one that its box is given.
        """
        for box, counts in zip(self.samples, saved, strict=False):
            now = box.counts()
            box.restore({name: max(count, counts.get(name) or 0) for name, count in now.items()})


def check_budgets(wanted: Mapping[BlackBox, int], what: str) -> None:
    """Raises BlackBoxError unless every budget holds the samples that its box is to be sent.

    Args:
      wanted: ``{box: samples}``.
      what: sends them, for the message.
    """
    for box, samples in wanted.items():
        budget = box.budget
        if budget is not None and box.num_samples + samples > budget:
            raise BlackBoxError(
                f"{what} {samples:,} samples to the black box, and of the budget of "
                f"{budget:,} only {max(budget - box.num_samples, 0):,} are left; give a "
                "larger budget to go on"
            )
