"""The perturbed passes of a coordinate-wise estimate: a slope for every coordinate."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.difference.precision import wide
from deepzero_jax.estimators.base_pass import Course, FlatLoss
from deepzero_jax.estimators.host_use import HostUse
from deepzero_jax.estimators.loss import ValueAndAux
from deepzero_jax.estimators.rounding import nearest
from deepzero_jax.estimators.smoothing import Step, check_resolution

# Slope of the loss along the coordinate of a leaf at a flat index.
Slope = Callable[[jax.Array], jax.Array]
# The loss with the scalar at a flat index of one leaf set to a value: (index, value) -> loss.
MovedLoss = Callable[[jax.Array, jax.Array], jax.Array]


class Passes(NamedTuple):
    """The base pass of an estimate, and how the perturbed ones go.

    Attributes:
      head: loss and aux at the base.
      slopes: for each leaf, ``(flat index) -> slope``.
      hoist: whether slopes hold work that is the same for every index.
      host_use: what the loss asks of the host.
      course: what differences are propagated through, if they are.
    """

    head: ValueAndAux
    slopes: Sequence[Slope]
    hoist: bool = False
    host_use: HostUse = HostUse()
    course: Course | None = None


# ``(flat loss, step of each leaf, central) -> passes``.
WayOfPassing = Callable[[FlatLoss, Sequence[Step], bool], Passes]


def subtracted_passes(
    at: FlatLoss,
    head: ValueAndAux,
    moved_losses: Sequence[MovedLoss],
    steps: Sequence[Step],
    central: bool,
    host_use: HostUse,
) -> Passes:
    """Differences of two evaluations of the loss.

    Args:
      at: the loss.
      head: loss and aux at the base.
      moved_losses: one for each leaf.
      steps: one for each leaf.
      central: two-sided differences.
      host_use: of the loss.

    Raises:
      ValueError: a step below the resolution of a leaf.
    """
    check_resolution(steps, at.paths, at.dtypes, at.leaves)
    slopes = [
        _quotient(moved, leaf, head[0], step, central)
        for moved, leaf, step in zip(moved_losses, at.leaves, steps, strict=True)
    ]
    return Passes(head, slopes, host_use=host_use)


def _quotient(
    moved_loss: MovedLoss, leaf: jax.Array, base: jax.Array, smoothing: Step, central: bool
) -> Slope:
    """Slope of the loss along the coordinate with a given flat index of ``leaf``."""

    def moved(index: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        start = leaf.reshape(-1)[index]
        found = nearest([start], [jnp.asarray(step, leaf.dtype)])
        stop, went = map(jnp.asarray, (found.ahead[0], found.went[0]))
        return wide(moved_loss(index, stop)), went

    def slope(index: jax.Array) -> jax.Array:
        upper, step_up = moved(index, smoothing)
        if not central:
            return _per_step(upper - wide(base), step_up)
        lower, step_down = moved(index, -smoothing)
        return _per_step(upper - lower, step_up - step_down)

    return slope


def _per_step(difference: jax.Array, step: jax.Array) -> jax.Array:
    """A quotient, NaN for a step that rounding has swallowed, whatever XLA made of the losses."""
    return jnp.where(step == 0, jnp.nan, difference / step)


def with_scalar(leaf: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
    """A leaf with the scalar at a flat index set to a value."""
    return leaf.reshape(-1).at[index].set(value, mode="drop").reshape(leaf.shape)
