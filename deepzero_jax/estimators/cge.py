"""Coordinate-wise gradient estimation: one finite difference per coordinate."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.coordinates import all_coordinates, leaf_paths, scatter
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.difference.values import ZERO, Delta, Point
from deepzero_jax.estimators.base_pass import check_delta_dtype, run_base_pass
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, chunk_size, map_valid
from deepzero_jax.estimators.contract import Estimator, Loss
from deepzero_jax.split import SplitFunction

PyTree = Any
# Slope of the loss along the coordinate of a leaf at a flat index.
Slope = Callable[[jax.Array], jax.Array]


class Passes(NamedTuple):
    """The base pass of an estimate, and how the perturbed ones go.

    Attributes:
      value: the loss at the base.
      aux: of the base pass.
      slopes: for each leaf, ``(flat index) -> slope``.
      hoist: whether slopes hold work that is the same for every index.
    """

    value: jax.Array
    aux: Any
    slopes: Sequence[Slope]
    hoist: bool = False


def check_smoothing(smoothing: float) -> None:
    """Raises ValueError unless ``smoothing`` is a positive finite number."""
    if not (isinstance(smoothing, int | float) and 0 < smoothing < float("inf")):
        raise ValueError(f"smoothing must be a positive number, got {smoothing!r}")


def cge(
    *,
    smoothing: float = 1e-4,
    central: bool = False,
    reuse: str = "difference",
    delta_dtype: Any = None,
    batch_size: BatchSize = "auto",
) -> Estimator:
    r"""Coordinate-wise gradient estimator: $g_i = (f(θ + μ e_i) - f(θ)) / μ$.

    Centrally, $g_i = (f(θ + μ e_i) - f(θ - μ e_i)) / 2μ$. Where two evaluations are
    subtracted, the divisor is the step that the floating-point parameter really took, so
    that its rounding does not enter.

    Args:
      smoothing: μ, the finite-difference step, in units of the parameters.
      central: two-sided differences, error O(μ²) instead of O(μ).
      reuse: how a perturbed pass is evaluated. ``"difference"``: the difference is
        propagated from the perturbed scalar on, see ``difference``; nothing cancels, and
        nothing that does not move is computed again. ``"none"``: the whole loss,
        subtracted. ``"split"``: only the stages from the perturbed leaf on, subtracted;
        the loss must be a ``SplitFunction``.
      delta_dtype: of the operands of matrix products and convolutions of deltas, with
        ``reuse="difference"``: None for their own, or ``jnp.bfloat16`` (accumulated in
        float32; the base pass is untouched).
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
    check_delta_dtype(delta_dtype)
    if reuse not in _PASSES:
        raise ValueError(f"reuse must be one of {sorted(_PASSES)}, got {reuse!r}")

    make_passes = _PASSES[reuse]

    def slopes_and_chunks(loss: Loss, params: PyTree, coordinates: PyTree) -> Iterator[Any]:
        passes = make_passes(loss, params, smoothing, central, delta_dtype)
        yield passes
        leaves, treedef = jax.tree.flatten(params)
        for slope, leaf, indices in zip(
            passes.slopes, leaves, treedef.flatten_up_to(coordinates), strict=True
        ):
            example = jnp.int32(0)
            one = Hoisted(slope, example) if passes.hoist and len(indices) else slope
            chunk = 1
            if len(indices) > 1:
                chunk = min(chunk_size(batch_size, one, example), len(indices))
            yield (one if chunk == 1 else slope), leaf, indices, chunk

    def values(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        del key
        passes, *rest = slopes_and_chunks(loss, params, coordinates)
        found = []
        for slope, leaf, indices, chunk in rest:
            size, dtype = np.size(leaf), passes.value.dtype
            hoist = passes.hoist and chunk > 1
            found.append(map_valid(slope, indices, size, chunk, dtype, hoist))
        return (passes.value, passes.aux), jax.tree.unflatten(jax.tree.structure(params), found)

    def estimate(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        params = jax.tree.map(jnp.asarray, params)
        if coordinates is None:
            coordinates = all_coordinates(params)
        head, found = values(loss, params, key, coordinates)
        return head, jax.tree.map(scatter, params, coordinates, found)

    def chunk_sizes(loss: Loss, params: PyTree, coordinates: PyTree) -> list[int]:
        sizes = []

        def trace(params: PyTree, args: Any) -> jax.Array:
            _, *rest = slopes_and_chunks(Loss(loss.fun, args, loss.has_aux), params, coordinates)
            sizes.extend(chunk for *_, chunk in rest)
            return jnp.zeros(())

        jax.eval_shape(trace, params, loss.args)
        return sizes

    passes = 2 if central else 1
    return Estimator(
        "cge",
        estimate,
        lambda count: 1 + passes * count,
        chunk_sizes=chunk_sizes,
        values=values,
    )


def propagated_passes(
    loss: Loss, params: PyTree, smoothing: float, central: bool, delta_dtype: Any
) -> Passes:
    """Differences propagated from each coordinate beside one base pass."""
    leaves = jax.tree.leaves(params)
    base = run_base_pass(loss, params, delta_dtype)

    def along(position: int) -> Slope:
        shape = leaves[position].shape

        def delta(index: jax.Array, step: float) -> jax.Array:
            deltas: list[Delta] = [ZERO] * len(leaves)
            moved = jnp.asarray(step, leaves[position].dtype)
            deltas[position] = Point(moved, unravel(index, shape)) if shape else moved
            return base.delta(deltas)

        def slope(index: jax.Array) -> jax.Array:
            if central:
                return (delta(index, smoothing) - delta(index, -smoothing)) / (2 * smoothing)
            return delta(index, smoothing) / smoothing

        return slope

    slopes = [along(position) for position in range(len(leaves))]
    return Passes(base.value, base.aux, slopes, hoist=True)


def unravel(index: jax.Array, shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """Flat (row-major) index to one index for each axis."""
    indices = []
    for size in reversed(shape):
        indices.append(lax.rem(index, jnp.int32(size)))
        index = lax.div(index, jnp.int32(size))
    return tuple(reversed(indices))


# The loss with the scalar at a flat index of one leaf set to a value: (index, value) -> loss.
MovedLoss = Callable[[jax.Array, jax.Array], jax.Array]


def _subtracted(
    make_losses: Callable[[Loss, PyTree], Sequence[MovedLoss]],
) -> Callable[..., Passes]:
    """Differences of two evaluations of the loss."""

    def passes(
        loss: Loss, params: PyTree, smoothing: float, central: bool, delta_dtype: Any
    ) -> Passes:
        del delta_dtype
        value, aux = loss.value_and_aux(params)
        pairs = zip(make_losses(loss, params), jax.tree.leaves(params), strict=True)
        slopes = [_quotient(moved, leaf, value, smoothing, central) for moved, leaf in pairs]
        return Passes(value, aux, slopes)

    return passes


def _quotient(
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


_PASSES: dict[str, Callable[..., Passes]] = {
    "difference": propagated_passes,
    "none": _subtracted(_whole_losses),
    "split": _subtracted(_suffix_losses),
}
