"""A function of parameters cut into stages, so that a prefix can be evaluated once.

Perturbing a parameter of stage i leaves stages 0…i−1 as they were: DeepZero's
feature reuse evaluates that prefix once and only the suffix for each coordinate
(arXiv 2310.02025, section 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepzero_jax.types import Params, PyTree

# ``(params, carry, *args, **kwargs) -> carry``.
Stage = Callable[..., PyTree]
# ``(params, carry, output, index, value, *args, **kwargs) -> output``.
MoveCoordinate = Callable[..., PyTree]


@dataclass(frozen=True)
class SplitFunction:
    """``fun(params, *args)`` as a chain of stages, callable as the whole.

    Attributes:
      stages: functions ``stage(params, carry, *args) -> carry``; the first gets
        ``None`` for carry, the last returns what ``fun`` returns.
      first_stage: maps a leaf path to the index of the first stage that reads it.
      move_coordinate: maps a leaf path to a short cut through its stage, or to None.
        ``(params, carry, output, index, value, *args) -> output`` turns the stage's
        output into that with scalar ``index`` of the leaf set to ``value``.
    """

    stages: Sequence[Stage]
    first_stage: Callable[[str], int]
    move_coordinate: Callable[[str], MoveCoordinate | None] = lambda path: None

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """Runs every stage in order."""
        return self.suffix(0, params, None, *args, **kwargs)

    def carries(self, params: Params, *args: PyTree, **kwargs: PyTree) -> list[PyTree]:
        """What each stage reads, from one pass. **Cost**: one query, every carry kept alive."""
        carries = [None]
        for stage in self.stages[:-1]:
            carries.append(stage(params, carries[-1], *args, **kwargs))
        return carries

    def prefix(self, index: int, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """Runs the stages before ``index``: what stage ``index`` reads."""
        carry = None
        for stage in self.stages[:index]:
            carry = stage(params, carry, *args, **kwargs)
        return carry

    def suffix(
        self, index: int, params: Params, carry: PyTree, *args: PyTree, **kwargs: PyTree
    ) -> PyTree:
        """Runs stage ``index`` and those after it on the carry of ``prefix(index, …)``."""
        for stage in self.stages[index:]:
            carry = stage(params, carry, *args, **kwargs)
        return carry
