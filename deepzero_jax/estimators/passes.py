"""The perturbed passes of a coordinate-wise estimate: a slope for every coordinate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class SlopeFromBase:
    """Slopes of one leaf where the moved losses and that at the base come from one program.

    XLA rounds inside of two programs differently. The difference of the two, over the step, would
    be added to every slope.

    Attributes:
      moved_loss: of the leaf.
      leaf: the leaf.
      step: of the leaf.
    """

    moved_loss: MovedLoss
    leaf: jax.Array
    step: Step

    def __call__(self, index: jax.Array) -> jax.Array:
        """The loss with the scalar at an index moved; at ``leaf.size``, at the base."""
        last = self.leaf.size - 1
        ahead, _ = _stepped(self.leaf, index, self.step)
        stays = self.leaf.reshape(-1)[last]
        value = jnp.where(index > last, stays, ahead)
        return wide(self.moved_loss(jnp.minimum(index, last), value))

    def quotients(self, losses: jax.Array, base: jax.Array, indices: jax.Array) -> jax.Array:
        """Slopes [n], of moved losses [n] and that at the base."""
        _, went = jax.vmap(lambda index: _stepped(self.leaf, index, self.step))(indices)
        return _per_step(losses - base, went)


class Passes(NamedTuple):
    """The base pass of an estimate, and how the perturbed ones go.

    Attributes:
      head: loss and aux at the base.
      slopes: for each leaf, ``(flat index) -> slope``, or what makes slopes of moved losses.
      hoist: whether slopes hold work that is the same for every index.
      host_use: what the loss asks of the host.
      course: what differences are propagated through, if they are.
      told: whether what is asked of the host is left out where an index is padding.
    """

    head: ValueAndAux
    slopes: Sequence[Slope | SlopeFromBase]
    hoist: bool = False
    host_use: HostUse = HostUse()
    course: Course | None = None
    told: bool = False


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
    of_leaves = zip(moved_losses, at.leaves, steps, strict=True)
    if central or host_use.asks:  # what is asked for once more may be charged
        slopes = [_quotient(*of_leaf, head[0], central) for of_leaf in of_leaves]
        return Passes(head, slopes, host_use=host_use)
    return Passes(head, [SlopeFromBase(*of_leaf) for of_leaf in of_leaves])


def _quotient(
    moved_loss: MovedLoss, leaf: jax.Array, step: Step, base: jax.Array, central: bool
) -> Slope:
    """Slope of the loss along the coordinate with a given flat index of ``leaf``."""

    def moved(index: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        stop, went = _stepped(leaf, index, step)
        return wide(moved_loss(index, stop)), went

    def slope(index: jax.Array) -> jax.Array:
        upper, step_up = moved(index, step)
        if not central:
            return _per_step(upper - wide(base), step_up)
        lower, step_down = moved(index, -step)
        return _per_step(upper - lower, step_up - step_down)

    return slope


def _stepped(leaf: jax.Array, index: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
    """The scalar at a flat index after a step, and how far it went."""
    start = leaf.reshape(-1)[index]
    found = nearest([start], [jnp.asarray(step, leaf.dtype)])
    return jnp.asarray(found.ahead[0]), jnp.asarray(found.went[0])


def _per_step(difference: jax.Array, step: jax.Array) -> jax.Array:
    """A quotient, NaN for a step that rounding has swallowed, whatever XLA made of the losses."""
    return jnp.where(step == 0, jnp.nan, difference / step)


def with_scalar(leaf: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
    """A leaf with the scalar at a flat index set to a value."""
    return leaf.reshape(-1).at[index].set(value, mode="drop").reshape(leaf.shape)
