"""How far one gradient is from another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import check_coordinates
from deepzero_jax.types import PyTree


class GradientQuality(NamedTuple):
    """Comparison of an estimate with a reference; pairs of float scalars.

    Attributes:
      cosine: of the angle between the two, in [-1, 1]; 0 if either is zero.
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
        chosen = jax.tree.leaves(coordinates)
        pairs = [
            tuple(
                jnp.ravel(leaf)
                .at[indices]
                .get(mode="fill", fill_value=0, wrap_negative_indices=False)
                for leaf in pair
            )
            for pair, indices in zip(pairs, chosen, strict=True)
        ]
    product = sum(jnp.vdot(first, second) for first, second in pairs)
    norm = lambda leaves: jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))
    lengths = norm([first for first, _ in pairs]), norm([second for _, second in pairs])
    error = norm([first - second for first, second in pairs])
    both = lengths[0] * lengths[1]
    cosine = jnp.where(both > 0, product / jnp.where(both > 0, both, 1), 0.0)
    return GradientQuality(cosine, error / lengths[1])
