"""Autodiff behind the same contract: the baseline that zeroth-order training is compared to."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from deepzero_jax.coordinates import coordinate_mask
from deepzero_jax.estimators.contract import described
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.types import Key, Params, PyTree


@dataclass(frozen=True, eq=False, repr=False)
class AutodiffEstimator:
    """The gradient itself, by reverse-mode autodiff.

    Attributes:
      name: for messages.
      num_queries: ``(num_coordinates) -> int``, what an estimate is charged with.
    """

    name: str = "first_order"
    num_queries: Callable[[int], int] = lambda num_coordinates: 1
    needs_key: bool = field(default=False, init=False)
    chunk_sizes: None = field(default=None, init=False)

    def estimate(
        self, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        """One backward pass; see ``Estimator``."""
        del key
        output, grads = jax.value_and_grad(loss.value_and_aux, has_aux=True)(params)
        if coordinates is not None:
            mask = coordinate_mask(params, coordinates)
            grads = jax.tree.map(lambda keep, g: jnp.where(keep, g, 0), mask, grads)
        return output, grads

    def __repr__(self) -> str:
        """As the call that made it."""
        return described(self.name, {})


def first_order() -> AutodiffEstimator:
    """Exact gradient by reverse-mode autodiff, zero outside the coordinates.

    Returns:
      An ``Estimator`` for ``value_and_grad``.

    **Cost**: one query and one backward pass. It cannot pass a black box: ``jax.grad``
    raises there.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> value, grads = dz.value_and_grad(jnp.sum, dz.first_order())(jnp.ones(2))
      >>> print(value, grads)
      2.0 [1. 1.]
    """
    return AutodiffEstimator()
