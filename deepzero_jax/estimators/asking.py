"""Ask and tell: the points of an estimate, to be evaluated anywhere."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import (
    all_coordinates,
    check_coordinates,
    check_float_leaves,
    coordinate_mask,
)
from deepzero_jax.estimators.base_pass import FlatLoss
from deepzero_jax.estimators.contract import CoordinateEstimator, DirectionEstimator, Estimator
from deepzero_jax.estimators.directions import (
    direction_key,
    draw_direction,
    rounding_seed,
    typical_lengths,
)
from deepzero_jax.estimators.loss import Loss
from deepzero_jax.estimators.ranks import centred_ranks
from deepzero_jax.estimators.rounding import in_the_mean, nearest
from deepzero_jax.estimators.smoothing import Step, check_resolution
from deepzero_jax.keys import check_key
from deepzero_jax.types import Key, Params, PyTree

# ``(losses [queries]) -> (value, grads)``.
Tell = Callable[[Any], tuple[float, Params]]


def ask(
    estimator: Estimator,
    params: Params,
    key: Key | None = None,
    coordinates: PyTree | None = None,
) -> tuple[Params, Tell]:
    """The points at which an estimate evaluates its loss, and what makes a gradient of the losses.

    For losses that are no Python call: an array of jobs, a laboratory, people.

    Args:
      estimator: from ``cge`` or ``rge``; its ``reuse`` has no meaning here.
      params: pytree of floating-point arrays; those of NumPy's in float64 stay float64, whatever
        JAX holds.
      key: consumed by ``rge``; None for ``cge``.
      coordinates: int32 [n] a leaf, None for all.

    Returns:
      ``points``, NumPy arrays [queries, …] in the tree of ``params``, the base first, and
      ``tell(losses [queries]) -> (value, grads)``: the numbers of ``value_and_grad`` with
      ``reuse="none"``, to rounding. Losses are subtracted in float64.

    Raises:
      TypeError: another estimator, or leaves that are not floating-point.
      ValueError: a missing key, coordinates that do not fit, or smoothing below the
        resolution of a leaf; from ``tell``, losses of a wrong number or not finite
        (with ``ranked``, moved losses may be infinite).

    **Cost**: ``num_queries(estimator, params, coordinates)`` points, all in memory at once.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> points, tell = dz.ask(dz.cge(smoothing=1e-3), jnp.array([1.0, -2.0]))
      >>> value, grads = tell([float(np.sum(point**2)) for point in points])
      >>> print(points.shape, value, grads.round(2))
      (3, 2) 5.0 [ 2. -4.]
    """
    check_float_leaves(params)
    params = jax.tree.map(_as_given, params)
    if coordinates is not None:
        check_coordinates(params, coordinates)
    settings = getattr(estimator, "settings", {})
    at = FlatLoss.at(Loss(lambda params: jnp.zeros(()), (), has_aux=False), params)
    if isinstance(estimator, CoordinateEstimator) and "reuse" in settings:
        steps = _steps(at, settings)
        chosen = all_coordinates(params) if coordinates is None else coordinates
        return _coordinate_points(at, steps, settings["central"], chosen)
    if isinstance(estimator, DirectionEstimator) and "num_directions" in settings:
        key = check_key(key, f"{estimator.name} draws random directions")
        mask = None if coordinates is None else coordinate_mask(params, coordinates)
        kept = at.leaves if mask is None else jax.tree.leaves(mask)
        sizes = [int(np.size(one) if mask is None else np.sum(one)) for one in kept]
        steps = _steps(at, settings, typical_lengths(settings["distribution"], sizes))
        return _direction_points(at, steps, settings, key, mask)
    raise TypeError(f"ask takes an estimator from cge() or rge(), got {estimator!r}")


def _steps(at: FlatLoss, settings: Any, lengths: Sequence[Any] | None = None) -> list[Step]:
    steps = at.steps(settings["smoothing"])
    finer = "give NumPy arrays in float64, or set jax_enable_x64: float32 is JAX's type without it"
    lengths = [1.0] * len(steps) if lengths is None else lengths
    whole = zip(steps, at.paths, at.dtypes, at.leaves, lengths, strict=True)
    for step, path, dtype, leaf, length in whole:
        words = finer if dtype == np.float32 else ""
        check_resolution([step], [path], [dtype], [leaf], words, [length])
    return steps


def _as_given(leaf: Any) -> Any:
    """An array of JAX's, or one of NumPy's in float64."""
    is_double = isinstance(leaf, np.ndarray | np.float64) and leaf.dtype == np.float64
    return np.asarray(leaf) if is_double else jnp.asarray(leaf)


def _gradient(values: np.ndarray, leaf: Any) -> Any:
    """In the type and of the kind of a leaf."""
    found = values.astype(leaf.dtype).reshape(leaf.shape)
    return found if isinstance(leaf, np.ndarray) else jnp.asarray(found)


def _checked(losses: Any, count: int, ranked: bool = False) -> np.ndarray:
    found = np.asarray(losses, np.float64)
    if found.shape != (count,):
        raise ValueError(
            f"losses must be one number for each point, {count} in all, got {found.shape}"
        )
    usable = np.isfinite(found)
    if ranked:  # an infinite loss has its place, but at the base
        usable[1:] = ~np.isnan(found[1:])
    if not usable.all():
        first = int(np.argmin(usable))
        raise ValueError(f"losses must be finite; that of point {first} is {found[first]}")
    return found


def _coordinate_points(
    at: FlatLoss, steps: Sequence[Step], central: bool, coordinates: PyTree
) -> tuple[Params, Tell]:
    leaves = [np.asarray(leaf) for leaf in at.leaves]
    chosen = [
        indices[(indices >= 0) & (indices < leaf.size)]
        for leaf, indices in zip(
            leaves, map(np.asarray, at.treedef.flatten_up_to(coordinates)), strict=True
        )
    ]
    sides = (1, -1) if central else (1,)
    count = 1 + len(sides) * sum(len(indices) for indices in chosen)
    points = [np.repeat(leaf[None], count, axis=0) for leaf in leaves]
    # The step that was really taken divides, so that its rounding does not enter.
    spans, row = [], 1
    for leaf, step, indices, moved in zip(leaves, steps, chosen, points, strict=True):
        flat, ends = moved.reshape(count, -1), []
        for side in sides:
            rows = row + np.arange(len(indices))
            ends.append(leaf.reshape(-1)[indices] + leaf.dtype.type(side * float(step)))
            flat[rows, indices] = ends[-1]
            row += len(indices)
        start = ends[1] if central else leaf.reshape(-1)[indices]
        spans.append((ends[0] - start).astype(np.float64))

    def tell(losses: Any) -> tuple[float, Params]:
        found = _checked(losses, count)
        grads, row = [], 1
        for given, leaf, indices, span in zip(at.leaves, leaves, chosen, spans, strict=True):
            upper = found[row : row + len(indices)]
            row += len(indices)
            lower = found[row : row + len(indices)] if central else found[0]
            row += len(indices) if central else 0
            grad = np.zeros(leaf.size, leaf.dtype)
            grad[indices] = (upper - lower) / span
            grads.append(_gradient(grad, given))
        return float(found[0]), at.treedef.unflatten(grads)

    return at.treedef.unflatten(points), tell


def _direction_points(
    at: FlatLoss, steps: Sequence[Step], settings: Any, key: Key, mask: PyTree | None
) -> tuple[Params, Tell]:
    num, central = settings["num_directions"], settings["central"]
    params = jax.tree.map(jnp.asarray, at.params)
    draw = lambda k: draw_direction(k, params, mask, settings["distribution"])
    keys = jax.vmap(lambda j: direction_key(key, j))(jnp.arange(num))
    directions, factors = jax.vmap(draw)(keys)
    pairs = zip(jax.tree.leaves(directions), at.leaves, strict=True)
    us = [np.asarray(u, leaf.dtype) for u, leaf in pairs]
    leaves = [np.asarray(leaf)[None] for leaf in at.leaves]
    pairs = zip(leaves, steps, us, strict=True)
    offsets = [np.asarray(step, leaf.dtype) * u for leaf, step, u in pairs]
    seeds = np.asarray(jax.vmap(rounding_seed)(keys))
    found = nearest(leaves, offsets, central, on_host=True)
    found, share = in_the_mean(found, seeds, 1, on_host=True)
    parts = zip(leaves, found.ahead, *([found.behind] if central else []), strict=True)
    points = [np.concatenate(part) for part in parts]

    def tell(losses: Any) -> tuple[float, Params]:
        found = _checked(losses, 1 + num * (2 if central else 1), settings["ranked"])
        moved = (found[1:] - found[0]) * np.tile(share, 2 if central else 1)
        if settings["ranked"]:
            moved = centred_ranks(moved, np.ones(len(moved), bool))
        deltas = (moved[:num] - moved[num:]) / 2 if central else moved
        scaled = deltas * np.broadcast_to(np.asarray(factors, np.float64), (num,)) / num
        grads = [
            _gradient(np.tensordot(scaled / float(step), np.asarray(u, np.float64), 1), leaf)
            for leaf, step, u in zip(at.leaves, steps, us, strict=True)
        ]
        return float(found[0]), at.treedef.unflatten(grads)

    return at.treedef.unflatten(points), tell
