"""Coordinates: the scalars of a parameter pytree that one step perturbs.

A set of coordinates is a pytree with the structure of the parameters whose
leaves are one-dimensional int32 arrays of flat (row-major) indices, distinct and in
[0, size of the leaf), in any order. Behind them may stand padding, indices equal to or
above that size: it is evaluated by nobody and scattered nowhere, so sets of varying size
can share one static shape.

What breaks this is refused where the indices are known. Inside ``jit`` they are not, and
count as they stand: a negative index is padding, padding among valid indices is passed
over, and an index that stands twice is evaluated twice and gives the gradient once.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from deepzero_jax.pages import see
from deepzero_jax.registry import nearest
from deepzero_jax.types import Array, Key, Params, PyTree


def leaf_paths(params: Params) -> list[str]:
    """Names the leaves of a pytree, in flattening order, as ``"layer/kernel"``.

    Raises:
      ValueError: two leaves of one path, of which a mapping by paths would lose one.

    Example:
      >>> leaf_paths({"dense": {"bias": 0.0, "kernel": 1.0}})
      ['dense/bias', 'dense/kernel']
    """
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    if len(set(paths)) < len(paths):
        path = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(
            f"two leaves have the path {path!r}: whatever is said of single leaves goes by their "
            "paths, with a slash between names; rename one, or take the slash out of its name"
        )
    return paths


def leaf_sizes(params: Params) -> dict[str, int]:
    """Numbers in each leaf, by its path."""
    return dict(zip(leaf_paths(params), map(np.size, jax.tree.leaves(params)), strict=True))


def check_float_leaves(params: Params) -> None:
    """Raises TypeError, naming the leaf, unless every leaf is a floating-point array."""
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if not isinstance(leaf, int | float | complex) and not hasattr(leaf, "dtype"):
            raise TypeError(
                f"params[{path!r}] is of type {type(leaf).__name__}; only floating-point arrays "
                "can be perturbed. Give a module's arrays alone, and put it together inside "
                f"the loss{see('not-arrays')}"
            )
        try:
            dtype = jnp.result_type(leaf)
        except TypeError:
            raise TypeError(
                f"params[{path!r}] is of type {type(leaf).__module__}.{type(leaf).__name__}, which "
                "is no array of JAX's or NumPy's: give np.asarray of it, and make what is "
                f"computed outside of JAX a black box{see('numpy')}"
            ) from None
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"params[{path!r}] has dtype {dtype}; only floating-point leaves can be "
                f"perturbed. Pass other values as further arguments of the loss"
                f"{see('integer-leaves')}"
            )
        if jnp.finfo(dtype).bits < 16:
            raise TypeError(
                f"params[{path!r}] has dtype {dtype}, which holds too few numbers to step between: "
                "keep the leaf in float32 or bfloat16, and cast it inside the loss"
            )


def all_coordinates(params: Params) -> PyTree:
    """Selects every scalar of ``params``: int32 ``[leaf.size]`` for each leaf.

    Example:
      >>> all_coordinates({"w": jnp.zeros((2, 2))})["w"].tolist()
      [0, 1, 2, 3]
    """
    return jax.tree.map(lambda leaf: jnp.arange(np.size(leaf), dtype=jnp.int32), params)


def check_coordinates(params: Params, coordinates: PyTree) -> None:
    """Raises ValueError unless ``coordinates`` are coordinates of ``params``, see above.

    Known indices are checked one by one, traced ones for their shape and dtype.
    """
    expected, got = leaf_paths(params), leaf_paths(coordinates)
    if expected != got:
        odd = sorted(set(expected) ^ set(got))
        raise ValueError(
            f"coordinates must have the structure of params; they differ at {odd[:3]}. "
            "Give every leaf an int32 array of flat indices, an empty one to leave it out."
        )
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(coordinates), strict=True)
    for path, (leaf, indices) in zip(got, leaves, strict=True):
        if np.ndim(indices) != 1 or not jnp.issubdtype(jnp.result_type(indices), jnp.integer):
            raise ValueError(
                f"coordinates[{path!r}] must be a one-dimensional integer array of flat indices, "
                f"got shape {np.shape(indices)} and dtype {jnp.result_type(indices)}"
            )
        if not isinstance(indices, Tracer) and getattr(indices, "is_fully_addressable", True):
            _check_indices(path, np.size(leaf), np.asarray(indices))


def _check_indices(path: str, size: int, indices: np.ndarray) -> None:
    valid = is_valid(size, indices)
    count = int(valid.sum())
    chosen = indices[:count]
    if (indices < 0).any():
        index, reason = indices[indices < 0][0], "is negative; count from the start of the leaf"
    elif not valid[:count].all():
        index = indices[count:][valid[count:]][0]
        reason = f"stands behind padding (an index of at least {size}, the leaf's size)"
    elif (chosen[1:] > chosen[:-1]).all():  # not by a difference, which wraps if unsigned
        return
    else:
        distinct, repeats = np.unique(chosen, return_counts=True)
        if (repeats == 1).all():
            return
        index, reason = distinct[repeats > 1][0], "stands more than once"
    raise ValueError(
        f"coordinates[{path!r}]: index {index} {reason}; a leaf takes distinct indices in "
        f"[0, {size}), and padding at the end"
    )


def is_valid(size: Array | int, indices: Array) -> Array:
    """Which indices [n] are none of padding, of a leaf with so many scalars: bool [n]."""
    return (indices >= 0) & (indices < size)


def num_valid(leaf: Array, indices: Array) -> jax.Array | np.integer:
    """Counts the coordinates of a leaf, padding left out: an integer scalar.

    Args:
      leaf: array whose scalars they are; its shape is enough.
      indices: int32 [n]. Traced indices give a traced count.

    Example:
      >>> int(num_valid(np.zeros(9), np.array([2, 5, 9, 9])))
      2
    """
    return is_valid(np.size(leaf), indices).sum()


def valid_length(leaf: Array, indices: jax.Array) -> jax.Array:
    """Length of ``indices`` [n] up to the last that is no padding: an int32 scalar.

    ``num_valid``, if padding stands at the end.
    """
    ends = jnp.arange(1, indices.shape[0] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(is_valid(np.size(leaf), indices), ends, 0), initial=0)


def coordinates_per_leaf(params: Params, coordinates: PyTree) -> dict[str, int]:
    """Counts the coordinates of each leaf of a concrete set, padding left out."""
    check_coordinates(params, coordinates)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(coordinates), strict=True)
    counts = [int(num_valid(leaf, np.asarray(indices))) for leaf, indices in pairs]
    return dict(zip(leaf_paths(params), counts, strict=True))


def num_coordinates(params: Params, coordinates: PyTree | None = None) -> int:
    """Counts the coordinates of a set (all of ``params`` when None), padding left out.

    Under ``jit``, where indices are unknown, padding counts.
    """
    if coordinates is None:
        return sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    check_coordinates(params, coordinates)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(coordinates), strict=True)
    return sum(
        indices.shape[0]
        if isinstance(indices, Tracer)
        else int(num_valid(leaf, np.asarray(indices)))
        for leaf, indices in pairs
    )


def check_ratios(params: Params, ratios: Mapping[str, float]) -> None:
    """Raises ValueError unless ``ratios`` names leaves of ``params`` and lies in [0, 1]."""
    paths = leaf_paths(params)
    for path, ratio in ratios.items():
        if path not in paths:
            raise ValueError(
                f"ratios name a leaf {path!r} that params do not have "
                f"({nearest(path, paths)}): they belong to another model"
            )
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratios[{path!r}] must lie in [0, 1], got {ratio}")


def kept_per_leaf(params: Params, ratios: Mapping[str, float]) -> dict[str, int]:
    """Static number of coordinates kept in each leaf at the pruned fractions ``ratios``.

    A leaf that ``ratios`` does not name is kept whole.
    """
    check_ratios(params, ratios)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(params)]
    return {
        path: math.floor(size * (1.0 - ratios.get(path, 0.0)) + 0.5)
        for path, size in zip(leaf_paths(params), sizes, strict=True)
    }


def sample_coordinates(key: Key, params: Params, ratios: Mapping[str, float]) -> PyTree:
    """Draws uniformly random coordinates, leaf by leaf, at the given pruning ratios.

    Counts depend on ``ratios`` alone, so drawing again recompiles nothing.

    Args:
      key: a PRNG key, consumed.
      params: pytree of floating-point arrays (or of their shapes).
      ratios: ``{leaf path: pruned fraction in [0, 1]}``; leaves not named are kept whole.

    Returns:
      Pytree like ``params``: int32 ``[round(size * (1 - ratio))]``, sorted, distinct.

    Raises:
      ValueError: a path that ``params`` does not have, or a ratio outside [0, 1].

    **Cost**: no query; one random permutation of each leaf that is not kept whole.
    Source: DeepZero, Algorithm 1 (arXiv 2310.02025).

    Example:
      >>> params = {"w": jnp.zeros(10), "b": jnp.zeros(2)}
      >>> chosen = sample_coordinates(jax.random.key(0), params, {"w": 0.7})
      >>> chosen["w"].shape, chosen["b"].tolist()
      ((3,), [0, 1])
    """
    kept = list(kept_per_leaf(params, ratios).values())
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = []
    for leaf_key, leaf, count in zip(keys, leaves, kept, strict=False):
        size = np.size(leaf)
        indices = jnp.arange(size, dtype=jnp.int32)
        if count < size:
            indices = jnp.sort(jax.random.permutation(leaf_key, indices)[:count])
        drawn.append(indices)
    return treedef.unflatten(drawn)


def first_coordinates(params: Params, coordinates: PyTree, counts: Sequence[int]) -> PyTree:
    """The first ``counts[i]`` coordinates of leaf i, the rest made padding; shapes stay."""
    leaves, treedef = jax.tree.flatten(params)
    parts = []
    for leaf, indices, count in zip(
        leaves, treedef.flatten_up_to(coordinates), counts, strict=True
    ):
        part = np.full_like(indices, np.size(leaf))
        part[:count] = np.asarray(indices)[:count]
        parts.append(jnp.asarray(part))
    return treedef.unflatten(parts)


def scatter(leaf: jax.Array, indices: jax.Array, values: jax.Array) -> jax.Array:
    """Zeros shaped like ``leaf``, with ``values`` [n] at flat ``indices`` [n]; padding drops."""
    flat = (
        jnp.zeros(leaf.size, values.dtype)
        .at[indices]
        .set(values, mode="drop", wrap_negative_indices=False)
    )
    return flat.reshape(leaf.shape).astype(leaf.dtype)


def coordinate_mask(params: Params, coordinates: PyTree | None) -> PyTree:
    """Boolean pytree like ``params``: true where a coordinate is in the set (all when None)."""
    if coordinates is None:
        return jax.tree.map(lambda leaf: jnp.ones(np.shape(leaf), bool), params)
    return jax.tree.map(
        lambda leaf, indices: (
            jnp.zeros(np.size(leaf), bool)
            .at[indices]
            .set(True, mode="drop", wrap_negative_indices=False)
            .reshape(leaf.shape)
        ),
        params,
        coordinates,
    )


def masked_coordinates(mask: PyTree) -> PyTree:
    """The coordinates that a mask keeps: the flat indices of its true entries, leaf by leaf.

    Args:
      mask: boolean pytree like the parameters, known, as ``pruning.prune_mask`` makes it.

    Returns:
      Pytree of int32 [n], for ``value_and_grad(…)(params, coordinates=…)``.

    Example:
      >>> import deepzero_jax as dz
      >>> dz.masked_coordinates({"w": np.array([[True, False], [False, True]])})["w"].tolist()
      [0, 3]
    """
    return jax.tree.map(lambda kept: jnp.asarray(np.flatnonzero(kept), jnp.int32), mask)
