"""How far one gradient is from another."""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import check_coordinates
from deepzero_jax.difference.precision import wide
from deepzero_jax.types import PyTree
from deepzero_jax.varying import split_like


class GradientQuality(NamedTuple):
    """Comparison of an estimate with a reference; pairs of float scalars.

    Attributes:
      cosine: of the angle between the two, in [-1, 1]; 0 if either is zero, NaN if either is not
        finite.
      relative_error: ``|estimate - reference| / |reference|``.
    """

    cosine: jax.Array
    relative_error: jax.Array


def gradient_quality(
    estimate: PyTree, reference: PyTree, coordinates: PyTree | None = None
) -> GradientQuality:
    """Compares an estimate of a gradient with the gradient, all leaves as one vector.

    Args:
      estimate: pytree of arrays.
      reference: pytree of arrays of the same shapes, from autodiff for one.
      coordinates: where to compare, int32 [n] of flat indices a leaf; None: everywhere.

    Returns:
      A ``GradientQuality``. Can be jitted.

    Raises:
      ValueError: trees of different structure or shapes.

    **Cost**: no query.

    Example:
      >>> quality = gradient_quality(jnp.array([3.0, 0.0]), jnp.array([3.0, 4.0]))
      >>> print(f"{quality.cosine:.2f} {quality.relative_error:.2f}")
      0.60 0.80
    """
    if jax.tree.structure(estimate) != jax.tree.structure(reference):
        raise ValueError("estimate and reference must be pytrees of the same structure")
    pairs = list(zip(jax.tree.leaves(estimate), jax.tree.leaves(reference), strict=True))
    for first, second in pairs:
        if np.shape(first) != np.shape(second):
            raise ValueError(
                f"estimate and reference differ in shape: {np.shape(first)} and {np.shape(second)}"
            )
    if coordinates is not None:
        check_coordinates(reference, coordinates)
    return _compared(pairs, None if coordinates is None else jax.tree.leaves(coordinates))


# One program: of arrays split over devices, sums that each were one would wait for each other.
@jax.jit
def _compared(
    pairs: list[tuple[jax.Array, jax.Array]], coordinates: list[jax.Array] | None
) -> GradientQuality:
    if coordinates is not None:
        pairs = [
            (_taken(first, chosen), _taken(second, chosen))
            for (first, second), chosen in zip(pairs, coordinates, strict=True)
        ]
    pairs = [(wide(first), wide(second)) for first, second in pairs]
    pairs = [(first, split_like(second, first)) for first, second in pairs]
    sides = [[pair[i] for pair in pairs] for i in range(2)]
    # Each in units of its largest number: squares might be beyond what float32 holds.
    tops = [_largest(side) for side in sides]
    units = [_or_one(top) for top in tops]
    scaled = [[leaf / unit for leaf in side] for side, unit in zip(sides, units, strict=True)]
    product = sum(jnp.sum(first * second) for first, second in zip(*scaled, strict=True))
    both = _norm(scaled[0]) * _norm(scaled[1])
    cosine = jnp.where(both == 0, 0.0, product / jnp.where(both == 0, 1, both))
    unit = _or_one(jnp.maximum(*tops))
    error = _norm([first / unit - second / unit for first, second in pairs])
    return GradientQuality(cosine, error / (_norm(scaled[1]) * (units[1] / unit)))


def _taken(leaf: jax.Array, indices: jax.Array) -> jax.Array:
    numbers = jnp.ravel(leaf).at[indices]
    return numbers.get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _norm(leaves: list[jax.Array]) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))


def _largest(leaves: list[jax.Array]) -> jax.Array:
    """The largest number by size."""
    tops = [jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]
    return reduce(jnp.maximum, tops, jnp.zeros(()))


def _or_one(unit: jax.Array) -> jax.Array:
    """A unit to divide by: 1 where all is zero."""
    return jnp.where(unit > 0, unit, 1)
