"""Differences along all directions of a part before any of them is turned into a slope.

For what needs to see them together: their ranks, or the loss at the base as their program has it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.base_pass import BasePass
from deepzero_jax.estimators.chunks import BatchSize, chunk_size, map_valid
from deepzero_jax.estimators.directions import Drawn
from deepzero_jax.estimators.smoothing import Step


class Items(NamedTuple):
    """What a part evaluates.

    Attributes:
      number: of its directions, with what fills it up to the size of the largest part.
      own: directions of this part, where no other may be evaluated; None: those that fill up may.
      sides: of each direction, 2 where it is central.
      batch_size: passes side by side.
      hoist: do what depends on no direction once.
    """

    number: int
    own: jax.Array | int | None
    sides: int
    batch_size: BatchSize
    hoist: bool

    def deltas(
        self,
        base: BasePass,
        draw: Callable[[jax.Array], Drawn],
        steps: Sequence[Step],
        with_base: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Differences [number, sides], and that of a step of 0; without ``with_base`` it is 0.

        Args:
          base: from which is moved.
          draw: a direction of the part.
          steps: along it, of each leaf.
          with_base: evaluate what is no step as the others are. XLA rounds inside of two programs
            differently, so it may differ from 0.
        """
        sides, num_items = self.sides, self.number * self.sides

        def moved(item: jax.Array) -> jax.Array:
            drawn = draw(item // sides)
            sign = jnp.where(item % sides == 0, 1, -1) * (item < num_items)
            return base.delta(drawn.along(steps, sign), drawn.seed)

        one = Hoisted(moved, jnp.int32(0)) if self.hoist else moved
        chunk = chunk_size(self.batch_size, one, jnp.int32(0))
        length = (self.number if self.own is None else self.own) * sides
        places = jnp.arange(num_items + with_base, dtype=jnp.int32)
        options: dict[str, Any] = {"hoist": self.hoist, "exact": self.own is not None}
        options |= {"length": length + with_base, "tell": length}
        chunk += with_base and chunk >= num_items  # where they go together, one more
        found = map_valid(moved, places, places, chunk, wide_dtype(base.value.dtype), **options)
        still = found[num_items] if with_base else jnp.zeros((), found.dtype)
        return found[:num_items].reshape(self.number, sides), still
