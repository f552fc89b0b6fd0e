"""Passing by the whole loss: evaluated at the moved parameters, and subtracted."""

from collections.abc import Sequence

import jax

from deepzero_jax.estimators.base_pass import FlatLoss
from deepzero_jax.estimators.passes import MovedLoss, Passes, subtracted_passes, with_scalar
from deepzero_jax.estimators.smoothing import Step


def whole_passes(at: FlatLoss, steps: Sequence[Step], central: bool) -> Passes:
    """Differences of two evaluations of the whole loss: the oracle of the other two ways."""
    head = at.loss.value_and_aux(at.params)
    return subtracted_passes(at, head, whole_losses(at), steps, central)


def whole_losses(at: FlatLoss) -> list[MovedLoss]:
    """For each leaf, the loss with one scalar moved."""

    def replace(position: int) -> MovedLoss:
        def evaluate(index: jax.Array, value: jax.Array) -> jax.Array:
            return at.loss(at.with_leaf(position, with_scalar(at.leaves[position], index, value)))

        return evaluate

    return [replace(position) for position in range(len(at.leaves))]
