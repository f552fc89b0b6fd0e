"""What a loss asks of the host: every evaluation of it may be charged."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox import asks_host, boxes_called


class _Dropped:
    """Slopes that all estimates of this process have dropped."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: np.ndarray) -> None:
        """Adds to the count; called from where estimates run."""
        with self._lock:
            self.count += int(count)


_dropped = _Dropped()


def slopes_dropped() -> int:
    """Slopes that estimates of this process have left out, as a box gave no answer.

    A slope is that of a coordinate or of a direction. Two looks at the count tell how many
    fell in between, ``jax.effects_barrier()`` before each.
    """
    return _dropped.count


def tell_dropped(count: np.ndarray) -> None:
    """Adds to ``slopes_dropped``, from the host."""
    if count:
        _dropped.add(count)


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
        boxes = boxes_called(equations)
        return cls(asks_host(equations), any(box.options.on_failure == "nan" for box in boxes))

    def kept(self, slope: jax.Array, value: jax.Array) -> jax.Array:
        """A slope, zero where it fell to samples without an answer; NaN at the base stays."""
        return jnp.where(self.lost(slope, value), 0, slope) if self.drops else slope

    def lost(self, slope: jax.Array, value: jax.Array) -> jax.Array:
        """Where a slope fell to samples without an answer."""
        return jnp.isnan(slope) & jnp.isfinite(value)

    def tell_lost(self, slopes: Sequence[jax.Array], value: jax.Array) -> None:
        """Adds the slopes that fell to samples without an answer to ``slopes_dropped``."""
        if self.drops:
            self.tell(sum(jnp.sum(self.lost(slope, value)) for slope in slopes))

    def tell(self, num_dropped: jax.Array | int) -> None:
        """Adds to ``slopes_dropped`` when the estimate is run."""
        if self.drops:
            jax.debug.callback(_dropped.add, num_dropped)
