"""The loops of a coordinate-wise estimate: over the coordinates of one leaf, or of several."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from deepzero_jax.coordinates import valid_length
from deepzero_jax.estimators.chunks import BatchSize, chunk_of, map_joined, map_valid
from deepzero_jax.estimators.pass_joined import ChunkDelta, JoinedPasses
from deepzero_jax.estimators.passes import Slope, SlopeFromBase
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.types import Array

# What padding may add to the coordinates of a loop that several leaves share; where a box is asked
# for the others alone, calls cost more than padding.
_MOST_PADDING, _MOST_UNASKED = 0.25, 1.0


@dataclass(frozen=True)
class OneLeaf:
    """A loop over the coordinates of one leaf.

    Attributes:
      positions: its own alone.
      chunk: coordinates side by side.
      slope: along the coordinate at a flat index; or what makes slopes of moved losses, where the
        loss at the base is evaluated in front of them.
      leaf: the leaf.
      indices: int32 [n].
      hoist: what ``map_valid`` takes.
      exact: likewise.
    """

    positions: Sequence[int]
    chunk: int
    slope: Slope | SlopeFromBase
    leaf: jax.Array
    indices: Array
    hoist: bool
    exact: bool

    def slopes(self, dtype: DTypeLike) -> list[jax.Array]:
        """The slopes along its coordinates."""
        indices = jnp.asarray(self.indices, jnp.int32)
        if not isinstance(self.slope, SlopeFromBase) or not indices.shape[0]:
            return [self._mapped(indices, self.chunk, dtype)]
        no_index = jnp.full(1, self.leaf.size, jnp.int32)
        # In the loop over the others, so that it is one program: one more of a chunk of all.
        places = jnp.concatenate([no_index, indices])
        together = self.chunk >= indices.shape[0]
        length = 1 + valid_length(self.leaf, indices)
        losses = self._mapped(places, self.chunk + together, dtype, length)
        return [self.slope.quotients(losses[1:], losses[0], indices).astype(dtype)]

    def _mapped(
        self, indices: Array, chunk: int, dtype: DTypeLike, length: jax.Array | None = None
    ) -> jax.Array:
        return map_valid(
            self.slope, indices, self.leaf, chunk, dtype, self.hoist, self.exact, length
        )


@dataclass(frozen=True)
class SeveralLeaves:
    """A loop over the coordinates of leaves whose passes meet.

    Attributes:
      positions: of the leaves.
      chunk: coordinates of one leaf side by side.
      delta: of a chunk.
      leaves: the leaves.
      indices: int32 [n] for each.
      steps: for each.
      central: two-sided differences.
    """

    positions: Sequence[int]
    chunk: int
    delta: ChunkDelta
    leaves: Sequence[jax.Array]
    indices: Sequence[Array]
    steps: Sequence[Step]
    central: bool

    def slopes(self, dtype: DTypeLike) -> list[jax.Array]:
        """The slopes along the coordinates of each leaf."""

        def differences(number: jax.Array, part: jax.Array) -> jax.Array:
            if not self.central:
                return self.delta(number, part, jnp.float32(1))
            signs = jnp.array([1.0, -1.0], jnp.float32)
            upper, lower = jax.lax.map(lambda sign: self.delta(number, part, sign), signs)
            return upper - lower

        width = 2 if self.central else 1
        found = map_joined(differences, self.indices, self.leaves, self.chunk, dtype)
        return [
            (deltas / (width * step)).astype(dtype)
            for deltas, step in zip(found, self.steps, strict=True)
        ]


LeafLoop = OneLeaf | SeveralLeaves


def joined_loops(
    passes: JoinedPasses,
    leaves: Sequence[jax.Array],
    indices: Sequence[Array],
    steps: Sequence[Step],
    central: bool,
    batch_size: BatchSize,
) -> list[SeveralLeaves]:
    """The loops that several leaves can share; a leaf that is in none needs its own.

    Leaves share a loop where their passes meet and they go in chunks of nearly one size.
    """
    padding = _MOST_UNASKED if passes.told else _MOST_PADDING
    counts = [part.shape[0] for part in indices]
    active = [position for position, count in enumerate(counts) if count]
    chunks = {
        position: chunk_of(batch_size, lambda way=way: passes.live_bytes(way))
        for position, way in passes.ways(active).items()
    }
    alike: dict[int, list[int]] = {}
    for position in active:
        alike.setdefault(int(math.log2(chunks[position])), []).append(position)
    found = []
    for positions in alike.values():
        meeting: dict[object, list[int]] = {}
        for position, way in passes.ways(positions).items():
            meeting.setdefault(way[-1].origin, []).append(position)
        for together in meeting.values():
            if len(together) > 1:
                most = min(chunks[p] for p in together)
                chunk = _common_chunk(most, [counts[p] for p in together], padding)
                loop = SeveralLeaves(
                    together,
                    chunk,
                    passes.chunk_delta(together, chunk),
                    [leaves[p] for p in together],
                    [indices[p] for p in together],
                    [steps[p] for p in together],
                    central,
                )
                found.append(loop)
    return found


def _common_chunk(most: int, counts: Sequence[int], padding: float) -> int:
    """Halved until padding adds little."""
    chunk = min(most, max(counts))
    allowed = (1 + padding) * sum(counts)
    while chunk > 1 and sum(-(-count // chunk) * chunk for count in counts) > allowed:
        chunk //= 2
    return chunk
