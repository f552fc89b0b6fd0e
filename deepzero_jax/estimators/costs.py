"""What one coordinate costs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.cost import multiply_adds
from deepzero_jax.difference.cpu import plain_forms
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.cge import propagated_passes
from deepzero_jax.estimators.contract import Loss

PyTree = Any


def coordinate_costs(
    fun: Callable[..., Any], params: PyTree, *args: Any, has_aux: bool = False
) -> dict[str, float]:
    """Counts the multiply-adds that one coordinate of each leaf costs in ``cge``.

    Read off the propagated difference of the loss: what does not move is free, one moved
    channel costs a channel's share, a dense difference the whole layer. Counted are matrix
    products, convolutions, and elementwise products and quotients.

    Args:
      fun: ``fun(params, *args) -> loss``, or ``-> (loss, aux)`` with ``has_aux``.
      params: pytree of floating-point arrays, or of their shapes.
      *args: passed on to ``fun``; their shapes are enough.
      has_aux: whether ``fun`` returns auxiliary output.

    Returns:
      ``{leaf path: multiply-adds of one perturbed pass over the batch in args}``. Every
      coordinate of a leaf costs the same, and on every platform.

    **Cost**: no query; one trace for each leaf.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> params = {"first": jnp.ones((2, 3)), "last": jnp.ones((3, 5))}
      >>> fun = lambda p, x: jnp.sum(jnp.sin(x @ p["first"]) @ p["last"])
      >>> dz.coordinate_costs(fun, params, jnp.ones((4, 2)))
      {'first': 41.0, 'last': 5.0}
    """
    costs: list[float] = []

    def trace(params: PyTree, args: tuple[Any, ...]) -> jax.Array:
        passes = propagated_passes(Loss(fun, args, has_aux), params, 1e-4, False, None)
        for slope in passes.slopes:
            one = Hoisted(slope, jnp.int32(0))
            costs.append(float(multiply_adds(one, jnp.int32(0))))
        return jnp.zeros(())

    with plain_forms():
        jax.eval_shape(trace, params, args)
    return dict(zip(leaf_paths(params), costs, strict=True))
