"""Passing by the whole loss: evaluated at the moved parameters, and subtracted."""

from collections.abc import Sequence

import jax

from deepzero_jax.estimators.base_pass import FlatLoss, evaluated
from deepzero_jax.estimators.passes import MovedLoss, Passes, subtracted_passes, with_scalar
from deepzero_jax.estimators.smoothing import Step


def whole_passes(at: FlatLoss, steps: Sequence[Step], central: bool) -> Passes:
    """Differences of two evaluations of the whole loss: the oracle of the other two ways."""
    head, loss, host_use = evaluated(at)

    def replace(position: int) -> MovedLoss:
        def evaluate(index: jax.Array, value: jax.Array) -> jax.Array:
            return loss(at.with_leaf(position, with_scalar(at.leaves[position], index, value)))

        return evaluate

    moved = [replace(position) for position in range(len(at.leaves))]
    return subtracted_passes(at, head, moved, steps, central, host_use)
