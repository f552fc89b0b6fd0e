"""Centred ranks in place of losses."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.base_pass import BasePass
from deepzero_jax.estimators.chunks import BatchSize, chunk_size, map_valid, tell_passes
from deepzero_jax.estimators.contract import Part
from deepzero_jax.estimators.directions import Drawn
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.types import Array


class Items(NamedTuple):
    """What a part evaluates.

    Attributes:
      counts: bool [n], its directions; false for what fills it up to the size of the largest.
      own: of this part, where no other may be evaluated; None: those that fill up may.
      passes: for each direction, 2 where it is central.
      batch_size: passes side by side.
      hoist: do what depends on no direction once.
    """

    counts: jax.Array
    own: jax.Array | int | None
    passes: int
    batch_size: BatchSize
    hoist: bool


def ranked_differences(
    base: BasePass,
    draw: Callable[[jax.Array], Drawn],
    steps: Sequence[Step],
    items: Items,
    part: Part,
) -> tuple[jax.Array, jax.Array]:
    """Differences of ranks along the directions of a part, and which of them are dropped.

    Args:
      base: from which is moved.
      draw: a direction of the part.
      steps: along it, of each leaf.
      items: what is evaluated.
      part: whose losses are ranked among those of all.

    Returns:
      [n] differences, from one side to the other or to the middle, and bool [n].
    """
    counts, passes = items.counts, items.passes
    count = counts.shape[0]

    def moved(item: jax.Array) -> jax.Array:
        drawn = draw(item // passes)
        sign = jnp.where(item % passes == 0, 1, -1)
        return base.delta(drawn.along(steps, sign), drawn.seed)

    one = Hoisted(moved, jnp.int32(0)) if items.hoist else moved
    chunk = chunk_size(items.batch_size, one, jnp.int32(0))
    length = (count if items.own is None else items.own) * passes
    places = jnp.arange(count * passes, dtype=jnp.int32)
    options: dict[str, Any] = {"hoist": items.hoist, "exact": items.own is not None}
    dtype = wide_dtype(base.value.dtype)
    found = map_valid(moved, places, places, chunk, dtype, length=length, **options)
    tell_passes(length)
    deltas = found.reshape(count, passes)
    lost = counts & jnp.any(base.host_use.lost(deltas, base.value), axis=1)
    valid = counts & ~lost if base.host_use.drops else counts
    every = part.gather(jnp.broadcast_to(valid[:, None], deltas.shape))
    among = part.gather(deltas)
    of_all = centred_ranks(among.ravel(), every.ravel()).reshape(among.shape)
    ranks = lax.dynamic_index_in_dim(of_all, part.first, keepdims=False)
    difference = ranks[:, 0] - ranks[:, 1] if passes == 2 else ranks[:, 0]
    return jnp.where(valid, difference, 0), lost


def centred_ranks(losses: Array, counts: Array) -> Any:
    """Places of losses in their order, from −½ for the least to ½ for the largest.

    Equal losses share the mean of their places. NaN if one of those that count is NaN.

    Args:
      losses: [n].
      counts: bool [n], those that are compared; the places of others mean nothing.

    Source: evolution strategies (Salimans et al. 2017, arXiv 1703.03864, section 2).
    """
    xp: Any = jnp if isinstance(losses, jax.Array) else np
    number = xp.sum(counts)
    # What does not count stands behind, beside losses that are infinite.
    ordered, order = _sorted(xp.where(counts, losses, np.inf))
    # Looked up among themselves: XLA may compute a loss twice, and round it otherwise.
    below = xp.searchsorted(ordered, ordered, side="left")
    not_above = xp.minimum(xp.searchsorted(ordered, ordered, side="right"), number)
    middle = ((below + not_above - 1) / 2)[xp.argsort(order)]
    ranks = (middle / xp.maximum(number - 1, 1) - 0.5 * (number > 1)).astype(losses.dtype)
    return xp.where(xp.any(counts & xp.isnan(losses)), np.nan, ranks)


def _sorted(values: Any) -> tuple[Any, Any]:
    """Values in order, and where each comes from."""
    if isinstance(values, jax.Array):
        ordered, order = lax.sort((values, lax.iota(jnp.int32, values.size)), num_keys=1)
        return ordered, order
    order = np.argsort(values, kind="stable")
    return values[order], order
