"""Coordinate-wise gradient estimation: one finite difference per coordinate."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import all_coordinates, leaf_paths, scatter
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, chunk_size, map_valid
from deepzero_jax.estimators.contract import Estimator, Loss
from deepzero_jax.split import SplitFunction

PyTree = Any
# The loss with the scalar at a flat index of one leaf set to a value: (index, value) -> loss.
MovedLoss = Callable[[jax.Array, jax.Array], jax.Array]


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
    if reuse not in _MOVED_LOSSES:
        raise ValueError(f"reuse must be one of {sorted(_MOVED_LOSSES)}, got {reuse!r}")

    def chunk_of(moved_loss: MovedLoss, leaf: jax.Array, indices: jax.Array) -> int:
        if len(indices) < 2:
            return 1
        return chunk_size(batch_size, moved_loss, jnp.int32(0), jnp.zeros((), leaf.dtype))

    def estimate(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        del key
        params = jax.tree.map(jnp.asarray, params)
        value, aux = loss.value_and_aux(params)
        leaves, treedef = jax.tree.flatten(params)
        if coordinates is None:
            coordinates = all_coordinates(params)
        moved_losses = _MOVED_LOSSES[reuse](loss, params)
        chosen = treedef.flatten_up_to(coordinates)
        grads = []
        for leaf, indices, moved_loss in zip(leaves, chosen, moved_losses, strict=True):
            slope = _difference_quotient(moved_loss, leaf, value, smoothing, central)
            chunk = chunk_of(moved_loss, leaf, indices)
            estimates = map_valid(slope, indices, np.size(leaf), chunk, value.dtype)
            grads.append(scatter(leaf, indices, estimates))
        return (value, aux), treedef.unflatten(grads)

    def chunk_sizes(loss: Loss, params: PyTree, coordinates: PyTree) -> list[int]:
        sizes = []

        def trace(params: PyTree, args: Any) -> jax.Array:
            bound = Loss(loss.fun, args, loss.has_aux)
            leaves, treedef = jax.tree.flatten(params)
            chosen = treedef.flatten_up_to(coordinates)
            moved_losses = _MOVED_LOSSES[reuse](bound, params)
            for leaf, indices, moved_loss in zip(leaves, chosen, moved_losses, strict=True):
                sizes.append(chunk_of(moved_loss, leaf, indices))
            return jnp.zeros(())

        jax.eval_shape(trace, params, loss.args)
        return sizes

    passes = 2 if central else 1
    return Estimator("cge", estimate, lambda count: 1 + passes * count, chunk_sizes=chunk_sizes)


def _difference_quotient(
    moved_loss: MovedLoss, leaf: jax.Array, base: jax.Array, smoothing: float, central: bool
) -> Callable[[jax.Array], jax.Array]:
    """Slope of the loss along the coordinate with a given flat index of ``leaf``."""

    def moved(index: jax.Array, step: float) -> tuple[jax.Array, jax.Array]:
        start = leaf.reshape(-1)[index]
        stop = start + jnp.asarray(step, leaf.dtype)
        return moved_loss(index, stop), (stop - start).astype(base.dtype)

    def slope(index: jax.Array) -> jax.Array:
        upper, step_up = moved(index, smoothing)
        if not central:
            return (upper - base) / step_up
        lower, step_down = moved(index, -smoothing)
        return (upper - lower) / (step_up - step_down)

    return slope


def _with_scalar(leaf: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
    return leaf.reshape(-1).at[index].set(value, mode="drop").reshape(leaf.shape)


def _whole_losses(loss: Loss, params: PyTree) -> Sequence[MovedLoss]:
    leaves, treedef = jax.tree.flatten(params)

    def replace(position: int) -> MovedLoss:
        def evaluate(index: jax.Array, value: jax.Array) -> jax.Array:
            moved = list(leaves)
            moved[position] = _with_scalar(leaves[position], index, value)
            return loss(treedef.unflatten(moved))

        return evaluate

    return [replace(position) for position in range(len(leaves))]


def _suffix_losses(loss: Loss, params: PyTree) -> Sequence[MovedLoss]:
    fun = loss.fun
    if not isinstance(fun, SplitFunction):
        raise ValueError(
            'reuse="split" needs a loss that is cut into stages: build it with '
            'split.split_model_loss or split.SplitFunction, or choose reuse="none"'
        )
    leaves, treedef = jax.tree.flatten(params)
    carries = fun.carries(params, *loss.args)
    last = len(fun.stages) - 1

    def replace(position: int, path: str) -> MovedLoss:
        stage = fun.first_stage(path)
        short_cut = fun.move_coordinate(path) if stage < last else None

        def evaluate(index: jax.Array, value: jax.Array) -> jax.Array:
            moved = list(leaves)
            moved[position] = _with_scalar(leaves[position], index, value)
            moved_params = treedef.unflatten(moved)
            if short_cut is None:
                output = fun.suffix(stage, moved_params, carries[stage], *loss.args)
            else:
                carry = short_cut(
                    params, carries[stage], carries[stage + 1], index, value, *loss.args
                )
                output = fun.suffix(stage + 1, moved_params, carry, *loss.args)
            return loss.scalar(output)

        return evaluate

    return [replace(position, path) for position, path in enumerate(leaf_paths(params))]


_MOVED_LOSSES: dict[str, Callable[[Loss, PyTree], Sequence[MovedLoss]]] = {
    "none": _whole_losses,
    "split": _suffix_losses,
}
