"""Coordinate-wise gradient estimation: one finite difference per coordinate."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import all_coordinates, scatter
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, chunk_size, map_valid
from deepzero_jax.estimators.contract import Estimator, Loss
from deepzero_jax.split import SplitFunction

PyTree = Any
# The loss of a pass in which one leaf, given by value, replaces that of params.
LeafLoss = Callable[[jax.Array], jax.Array]


def check_smoothing(smoothing: float) -> None:
    """Raises ValueError unless ``smoothing`` is a positive finite number."""
    if not (isinstance(smoothing, int | float) and 0 < smoothing < float("inf")):
        raise ValueError(f"smoothing must be a positive number, got {smoothing!r}")


def cge(
    *,
    smoothing: float = 5e-3,
    central: bool = False,
    reuse: str = "none",
    batch_size: BatchSize = "auto",
) -> Estimator:
    r"""Coordinate-wise gradient estimator: $g_i = (f(θ + μ e_i) - f(θ)) / μ$.

    Centrally, $g_i = (f(θ + μ e_i) - f(θ - μ e_i)) / 2μ$. The divisor is the step that
    the floating-point parameter really took, so its rounding does not enter.

    Args:
      smoothing: μ, the finite-difference step, in units of the parameters.
      central: two-sided differences, error O(μ²) instead of O(μ).
      reuse: how a perturbed pass is evaluated. ``"none"``: the whole loss.
        ``"split"``: only the stages from the perturbed leaf on; the loss must be a
        ``SplitFunction``.
      batch_size: perturbed passes side by side, or ``"auto"``: as many as fit the
        cache (CPU) or the memory (accelerators).

    Returns:
      An ``Estimator`` for ``value_and_grad``.

    Raises:
      ValueError: smoothing not above 0, unknown ``reuse``, bad ``batch_size``; or at
        the call, ``reuse="split"`` with a loss that is not cut.

    **Cost**: one query, plus one per coordinate (two if ``central``).
    Source: DeepZero, equation (2) (arXiv 2310.02025).

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> estimator = dz.cge(smoothing=1e-3, central=True)
      >>> vg = dz.value_and_grad(lambda p: p["a"] * jnp.sum(p["b"]), estimator)
      >>> _, grads = vg({"a": jnp.array(2.0), "b": jnp.ones(3)})
      >>> print(grads["a"].round(2), grads["b"].round(2))
      3.0 [2. 2. 2.]
    """
    check_smoothing(smoothing)
    check_batch_size(batch_size)
    if reuse not in _LEAF_LOSSES:
        raise ValueError(f"reuse must be one of {sorted(_LEAF_LOSSES)}, got {reuse!r}")

    def estimate(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        del key
        value, aux = loss.value_and_aux(params)
        leaves, treedef = jax.tree.flatten(params)
        if coordinates is None:
            coordinates = all_coordinates(params)
        leaf_losses = _LEAF_LOSSES[reuse](loss, params)
        chosen = treedef.flatten_up_to(coordinates)
        grads = []
        for leaf, indices, leaf_loss in zip(leaves, chosen, leaf_losses, strict=True):
            leaf = jnp.asarray(leaf)
            slope = _difference_quotient(leaf_loss, leaf, value, smoothing, central)
            chunk = chunk_size(batch_size, leaf_loss, leaf) if len(indices) > 1 else 1
            estimates = map_valid(slope, indices, np.size(leaf), chunk, value.dtype)
            grads.append(scatter(leaf, indices, estimates))
        return (value, aux), treedef.unflatten(grads)

    def chunk_sizes(loss: Loss, params: PyTree, coordinates: PyTree) -> list[int]:
        sizes = []

        def trace(params: PyTree, args: Any) -> jax.Array:
            bound = Loss(loss.fun, args, loss.has_aux)
            leaves, treedef = jax.tree.flatten(params)
            chosen = treedef.flatten_up_to(coordinates)
            leaf_losses = _LEAF_LOSSES[reuse](bound, params)
            for leaf, indices, leaf_loss in zip(leaves, chosen, leaf_losses, strict=True):
                sizes.append(chunk_size(batch_size, leaf_loss, leaf) if len(indices) > 1 else 1)
            return jnp.zeros(())

        jax.eval_shape(trace, params, loss.args)
        return sizes

    passes = 2 if central else 1
    return Estimator("cge", estimate, lambda count: 1 + passes * count, chunk_sizes=chunk_sizes)


def _difference_quotient(
    leaf_loss: LeafLoss, leaf: jax.Array, base: jax.Array, smoothing: float, central: bool
) -> Callable[[jax.Array], jax.Array]:
    """Slope of the loss along the coordinate with a given flat index of ``leaf``."""

    def moved(index: jax.Array, step: float) -> tuple[jax.Array, jax.Array]:
        start = leaf.reshape(-1)[index]
        stop = start + jnp.asarray(step, leaf.dtype)
        flat = leaf.reshape(-1).at[index].set(stop, mode="drop")
        return leaf_loss(flat.reshape(leaf.shape)), (stop - start).astype(base.dtype)

    def slope(index: jax.Array) -> jax.Array:
        upper, step_up = moved(index, smoothing)
        if not central:
            return (upper - base) / step_up
        lower, step_down = moved(index, -smoothing)
        return (upper - lower) / (step_up - step_down)

    return slope


def _whole_losses(loss: Loss, params: PyTree) -> Sequence[LeafLoss]:
    leaves, treedef = jax.tree.flatten(params)

    def replace(position: int) -> LeafLoss:
        def evaluate(leaf: jax.Array) -> jax.Array:
            return loss(treedef.unflatten([*leaves[:position], leaf, *leaves[position + 1 :]]))

        return evaluate

    return [replace(position) for position in range(len(leaves))]


def _suffix_losses(loss: Loss, params: PyTree) -> Sequence[LeafLoss]:
    fun = loss.fun
    if not isinstance(fun, SplitFunction):
        raise ValueError(
            'reuse="split" needs a loss that is cut into stages: build it with '
            'split.split_model_loss or split.SplitFunction, or choose reuse="none"'
        )
    leaves, treedef = jax.tree.flatten(params)
    carries = fun.carries(params, *loss.args)

    def replace(position: int, stage: int) -> LeafLoss:
        def evaluate(leaf: jax.Array) -> jax.Array:
            moved = treedef.unflatten([*leaves[:position], leaf, *leaves[position + 1 :]])
            return loss.scalar(fun.suffix(stage, moved, carries[stage], *loss.args))

        return evaluate

    return [replace(i, stage) for i, stage in enumerate(fun.stage_of_leaves(params))]


_LEAF_LOSSES: dict[str, Callable[[Loss, PyTree], Sequence[LeafLoss]]] = {
    "none": _whole_losses,
    "split": _suffix_losses,
}
