"""A loss with its fixed arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from deepzero_jax.types import Array, Params, PyTree

# The loss at the base, and the auxiliary output of the base pass.
ValueAndAux = tuple[jax.Array, PyTree]
# ``(params, *args, **kwargs) -> loss``, or ``-> (loss, aux)``.
LossFunction = Callable[..., PyTree]


@dataclass(frozen=True)
class Loss:
    """A loss with its fixed arguments, as an estimator sees it.

    Attributes:
      fun: the function as the user gave it, ``fun(params, *args, **kwargs)``.
      args: its further arguments.
      has_aux: whether it returns ``(loss, aux)``.
      kwargs: its keyword arguments.

    Example:
      >>> loss = Loss(lambda w, x, scale: scale * w * x, (3.0,), has_aux=False, kwargs={"scale": 2})
      >>> loss(5.0)
      30.0
    """

    fun: LossFunction
    args: tuple[PyTree, ...]
    has_aux: bool
    kwargs: Mapping[str, PyTree] = field(default_factory=dict)

    def __call__(self, params: Params) -> jax.Array:
        """The scalar loss alone; unused aux computations are never run."""
        return self.scalar(self.output(params))

    def output(self, params: Params) -> PyTree:
        """What ``fun`` returns."""
        return self.fun(params, *self.args, **self.kwargs)

    def scalar(self, output: PyTree) -> jax.Array:
        """The loss in what ``fun`` returned."""
        return output[0] if self.has_aux else output

    def value_and_aux(self, params: Params) -> ValueAndAux:
        """Loss and aux of the base pass; aux is None without ``has_aux``."""
        output = self.output(params)
        return output if self.has_aux else (output, None)

    def arrays(self) -> list[Array]:
        """The arrays among the arguments; what else there is, is part of the function."""
        return [leaf for leaf in jax.tree.leaves(self._inputs()) if _is_array(leaf)]

    def with_arrays(self, arrays: Sequence[Array]) -> "Loss":
        """The same loss with other arrays in the places of ``arrays()``."""
        leaves, treedef = jax.tree.flatten(self._inputs())
        others = iter(arrays)
        leaves = [next(others) if _is_array(leaf) else leaf for leaf in leaves]
        args, kwargs = treedef.unflatten(leaves)
        return Loss(self.fun, args, self.has_aux, kwargs)

    def _inputs(self) -> tuple[tuple[PyTree, ...], dict[str, PyTree]]:
        return tuple(self.args), dict(self.kwargs)


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)
