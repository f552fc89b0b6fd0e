"""Centred ranks in place of losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.estimators.contract import Part
from deepzero_jax.types import Array


def ranked_differences(deltas: jax.Array, valid: jax.Array, part: Part) -> jax.Array:
    """Differences of ranks along the directions of a part, to the other side or the middle.

    Args:
      deltas: [n, 1 or 2 sides] of the moved losses.
      valid: bool [n], directions that count.
      part: whose losses are ranked among those of all.

    Returns:
      [n]; 0 where a direction does not count.
    """
    every = part.gather(jnp.broadcast_to(valid[:, None], deltas.shape))
    ranks = centred_ranks(deltas, part.gather(deltas).ravel(), every.ravel())
    difference = ranks[:, 0] - ranks[:, 1] if deltas.shape[1] == 2 else ranks[:, 0]
    return jnp.where(valid, difference, 0)


def centred_ranks(losses: Array, among: Array, counts: Array) -> Any:
    """Places of losses in the order of some, from −½ for the least to ½ for the largest.

    Equal losses share the mean of their places. NaN if one of those that count is NaN.

    Args:
      losses: of any shape.
      among: [n], the losses that are compared.
      counts: bool [n], those that count.

    Source: evolution strategies (Salimans et al. 2017, arXiv 1703.03864, section 2).
    """
    xp: Any = jnp if isinstance(among, jax.Array) else np
    number = xp.sum(counts)
    # What does not count stands behind, beside losses that are infinite.
    ordered = xp.sort(xp.where(counts, among, np.inf))
    below = xp.searchsorted(ordered, losses, side="left")
    not_above = xp.minimum(xp.searchsorted(ordered, losses, side="right"), number)
    middle = (below + not_above - 1) / 2
    ranks = (middle / xp.maximum(number - 1, 1) - 0.5 * (number > 1)).astype(among.dtype)
    return xp.where(xp.any(counts & xp.isnan(among)), np.nan, ranks)
