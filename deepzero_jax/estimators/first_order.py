"""Autodiff behind the same contract: the baseline that zeroth-order training is compared to."""

from typing import Any

import jax
import jax.numpy as jnp

from deepzero_jax.coordinates import coordinate_mask
from deepzero_jax.estimators.contract import Estimator, Loss

PyTree = Any


def first_order() -> Estimator:
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

    def estimate(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        del key
        output, grads = jax.value_and_grad(loss.value_and_aux, has_aux=True)(params)
        if coordinates is not None:
            mask = coordinate_mask(params, coordinates)
            grads = jax.tree.map(lambda keep, g: jnp.where(keep, g, 0), mask, grads)
        return output, grads

    return Estimator("first_order", estimate, lambda count: 1)
