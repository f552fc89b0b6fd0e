"""What one coordinate costs."""

import jax
import jax.numpy as jnp

from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.cost import multiply_adds
from deepzero_jax.difference.platforms import PLAIN, forms_of
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.base_pass import FlatLoss
from deepzero_jax.estimators.contract import CoordinateEstimator, Estimator
from deepzero_jax.estimators.loss import Loss, LossFunction
from deepzero_jax.estimators.pass_difference import propagated_passes
from deepzero_jax.types import Array, Params, PyTree


def coordinate_costs(
    fun: LossFunction, params: Params, *args: PyTree, has_aux: bool = False, **kwargs: PyTree
) -> dict[str, float]:
    """Counts the multiply-adds that one coordinate of each leaf costs in ``cge``.

    Read off the propagated difference of the loss: what does not move is free, one moved
    channel costs a channel's share, a dense difference the whole layer. Counted are matrix
    products, convolutions, and elementwise products and quotients.

    Args:
      fun: ``fun(params, *args, **kwargs) -> loss``, or ``-> (loss, aux)`` with ``has_aux``.
      params: pytree of floating-point arrays, or of their shapes.
      *args: passed on to ``fun``; their shapes are enough.
      has_aux: whether ``fun`` returns auxiliary output.
      **kwargs: passed on to ``fun`` likewise.

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
    return _propagated_costs(Loss(fun, args, has_aux, kwargs), params, central=False)


def _propagated_costs(loss: Loss, params: Params, central: bool) -> dict[str, float]:
    costs: list[float] = []
    index = jnp.int32(0)

    def trace(params: Params, arrays: list[Array]) -> jax.Array:
        at = FlatLoss.at(loss.with_arrays(arrays), params)
        # What a pass costs does not depend on the length of its step.
        slopes = propagated_passes(at, [1e-4] * len(at.leaves), central).slopes
        for leaf, slope in zip(at.leaves, slopes, strict=True):
            cost = multiply_adds(Hoisted(slope, index), index) if leaf.size else 0
            costs.append(float(cost))
        return jnp.zeros(())

    with forms_of(PLAIN):
        jax.eval_shape(trace, params, loss.arrays())
    return dict(zip(leaf_paths(params), costs, strict=True))


def estimator_costs(
    estimator: Estimator, fun: LossFunction, params: Params, *args: PyTree, has_aux: bool = False
) -> dict[str, float]:
    """Counts the multiply-adds that one coordinate of each leaf costs in an estimator.

    As ``coordinate_costs``, of both sides with ``central``, and a whole evaluation of the loss for
    each where nothing is reused (``reuse="none"``). ``reuse="split"``, which runs all layers from
    that of the coordinate on, is priced like ``"difference"``: too low.

    Args:
      estimator: from ``cge``; any other is priced as ``cge()``.
      fun, params, *args, has_aux: as of ``coordinate_costs``.

    **Cost**: no query; one trace for each leaf.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> estimator = dz.cge(smoothing=1e-3, reuse="none", central=True)
      >>> estimator_costs(estimator, lambda w, x: jnp.sum(x @ w), jnp.ones(3), jnp.ones((4, 3)))
      {'': 24.0}
    """
    settings = estimator.settings if isinstance(estimator, CoordinateEstimator) else {}
    loss, central = Loss(fun, args, has_aux, {}), bool(settings.get("central"))
    if settings.get("reuse") != "none":
        return _propagated_costs(loss, params, central)
    whole = loss_multiply_adds(loss, params)
    return dict.fromkeys(leaf_paths(params), (2 if central else 1) * whole)


def loss_multiply_adds(loss: Loss, params: Params) -> float:
    """Those of one evaluation of a loss; nothing is run."""
    call = lambda params, arrays: loss.with_arrays(arrays)(params)
    return float(multiply_adds(call, params, loss.arrays()))
