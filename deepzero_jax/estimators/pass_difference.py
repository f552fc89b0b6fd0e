"""Passing by propagation: the difference alone runs from the perturbed scalar to the loss."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from deepzero_jax.coordinates import is_valid
from deepzero_jax.difference.values import ZERO, Delta, Point
from deepzero_jax.estimators.base_pass import FlatLoss, propagated
from deepzero_jax.estimators.padding import asked_where, can_be_told
from deepzero_jax.estimators.passes import Passes, Slope
from deepzero_jax.estimators.smoothing import Step


def propagated_passes(
    at: FlatLoss, steps: Sequence[Step], central: bool, delta_dtype: DTypeLike | None = None
) -> Passes:
    """Differences propagated from each coordinate beside one base pass.

    Nothing cancels, and nothing that does not move is computed again.
    """
    base = propagated(at, delta_dtype)
    told = base.course is not None and can_be_told(base.course.program.equations)

    def along(position: int, smoothing: Step) -> Slope:
        leaf = at.leaves[position]

        def delta(index: jax.Array, step: Step) -> jax.Array:
            deltas: list[Delta] = [ZERO] * len(at.leaves)
            moved = jnp.asarray(step, leaf.dtype)
            deltas[position] = Point(moved, unravel(index, leaf.shape)) if leaf.shape else moved
            return base.delta(deltas, None)

        def slope(index: jax.Array) -> jax.Array:
            with asked_where(is_valid(leaf.size, index) if told else None):
                if central:
                    return (delta(index, smoothing) - delta(index, -smoothing)) / (2 * smoothing)
                return delta(index, smoothing) / smoothing

        return slope

    slopes = [along(position, step) for position, step in enumerate(steps)]
    head = (base.value, base.aux)
    return Passes(head, slopes, True, base.host_use, base.course, told)


def unravel(index: jax.Array, shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """Flat (row-major) index to one index for each axis."""
    indices = []
    for size in reversed(shape):
        indices.append(lax.rem(index, jnp.int32(size)))
        index = lax.div(index, jnp.int32(size))
    return tuple(reversed(indices))
