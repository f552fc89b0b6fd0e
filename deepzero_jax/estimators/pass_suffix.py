"""Passing by a suffix: only the stages from the perturbed leaf on are run, and subtracted."""

from collections.abc import Sequence

import jax

from deepzero_jax.estimators.base_pass import FlatLoss
from deepzero_jax.estimators.pass_whole import whole_passes
from deepzero_jax.estimators.passes import MovedLoss, Passes, subtracted_passes, with_scalar
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.split import SplitFunction


def suffix_passes(at: FlatLoss, steps: Sequence[Step], central: bool) -> Passes:
    """Differences of a suffix and the base pass: DeepZero's feature reuse.

    Of the whole loss where samples of a box may go without an answer.

    Raises:
      ValueError: a loss that is no ``SplitFunction``.
    """
    host_use = at.host_use()
    if host_use.drops:  # which samples are lost is seen by the whole loss alone
        return whole_passes(at, steps, central)
    head = at.loss.value_and_aux(at.params)
    return subtracted_passes(at, head, suffix_losses(at), steps, central, host_use)


def suffix_losses(at: FlatLoss) -> list[MovedLoss]:
    """For each leaf, the loss with one scalar moved, from what its stage reads on."""
    loss, fun = at.loss, at.loss.fun
    if not isinstance(fun, SplitFunction):
        raise ValueError(
            'reuse="split" needs a loss that is cut into stages: build it with '
            'models.split_model_loss or split.SplitFunction, or choose reuse="none"'
        )
    params, inputs = at.params, (loss.args, dict(loss.kwargs))
    carries = fun.carries(params, *inputs[0], **inputs[1])
    last = len(fun.stages) - 1

    def replace(position: int, path: str) -> MovedLoss:
        stage = fun.first_stage(path)
        short_cut = fun.move_coordinate(path) if stage < last else None

        def evaluate(index: jax.Array, value: jax.Array) -> jax.Array:
            args, kwargs = inputs
            moved = at.with_leaf(position, with_scalar(at.leaves[position], index, value))
            if short_cut is None:
                return loss.scalar(fun.suffix(stage, moved, carries[stage], *args, **kwargs))
            output = carries[stage + 1]
            carry = short_cut(params, carries[stage], output, index, value, *args, **kwargs)
            return loss.scalar(fun.suffix(stage + 1, moved, carry, *args, **kwargs))

        return evaluate

    return [replace(position, path) for position, path in enumerate(at.paths)]
