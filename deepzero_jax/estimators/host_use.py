"""What a loss asks of the host: every evaluation of it may be charged."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.blackbox import asks_host, boxes_asked


class HostUse(NamedTuple):
    """What a loss asks of the host, and what that means for its estimates.

    Attributes:
      asks: it calls the host for a value: every evaluation may be charged.
      drops: samples without an answer are NaN, and what they spoil is left out.
    """

    asks: bool = False
    drops: bool = False

    @classmethod
    def of(cls, equations: Sequence[Any]) -> "HostUse":
        """Of the equations of a loss."""
        boxes = boxes_asked(equations)
        return cls(asks_host(equations), any(box.options.on_failure == "nan" for box in boxes))

    def kept(self, slope: jax.Array, value: jax.Array) -> jax.Array:
        """A slope, zero where it fell to samples without an answer; NaN at the base stays."""
        if not self.drops:
            return slope
        return jnp.where(jnp.isnan(slope) & jnp.isfinite(value), 0, slope)
