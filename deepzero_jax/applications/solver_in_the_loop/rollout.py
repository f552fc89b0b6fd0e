"""Solver and network in turn: the rollout, its loss, and the training task around it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.solver_in_the_loop.correction import Correct
from deepzero_jax.blackbox import BlackBox, samples_asked
from deepzero_jax.data import epoch_indices
from deepzero_jax.training import Task
from deepzero_jax.types import Key, Params, PyTree

Step = Callable[[jax.Array], jax.Array]
# (params, model_state, windows) -> (loss, (model_state, metrics)).
WindowLoss = Callable[..., tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]


class Frames(NamedTuple):
    """Fine solutions as the coarse grid sees them, one coarse step apart.

    Attributes:
      train: float32 [runs, frames, *grid, channels].
      validation: likewise, other runs.
      test: likewise, other runs.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def rollout(step: Step, states: jax.Array, num_steps: int) -> jax.Array:
    """States [n, …] after each of the steps: [num_steps, n, …]."""

    def one(now: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        later = step(now)
        return later, later

    return jax.lax.scan(one, states, length=num_steps)[1]


def mean_absolute_errors(step: Step, frames: jax.Array) -> jax.Array:
    """Errors of rollouts from the first frame of every run: [runs, frames - 1]."""
    found = rollout(step, frames[:, 0], frames.shape[1] - 1)
    differences = jnp.abs(jnp.swapaxes(found, 0, 1) - frames[:, 1:])
    return jnp.mean(differences, axis=tuple(range(2, differences.ndim)))


def rollout_loss(solver: Step, correct: Correct, unroll: int, unit: float) -> WindowLoss:
    """Mean squared distance of a corrected rollout to fine frames.

    Args:
      solver: one coarse step of a batch of states; may be a black box.
      correct: ``(params, states) -> states``.
      unroll: steps.
      unit: mean square by which the loss is divided; the solver's own, so that a loss of 1
        is what it does uncorrected.

    Returns:
      ``loss(params, model_state, windows [b, unroll + 1, …]) -> (loss, (model_state, metrics))``.
    """

    def loss(
        params: Params, model_state: PyTree, windows: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        state, total = windows[:, 0], jnp.zeros(())
        for i in range(unroll):
            state = correct(params, solver(state))
            total += jnp.mean((state - windows[:, i + 1]) ** 2)
        return total / (unroll * unit), (model_state, {})

    return loss


def windows(frames: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Where windows of so many frames begin: run and first frame, int32 [windows] each."""
    starts = np.arange(frames.shape[1] - length + 1)
    runs, firsts = np.meshgrid(np.arange(len(frames)), starts, indexing="ij")
    return runs.ravel().astype(np.int32), firsts.ravel().astype(np.int32)


def window_task(
    loss: WindowLoss,
    init: Callable[[Key], Params],
    sequences: np.ndarray,
    length: int,
    batch_size: int,
    judge: Callable[[Params], jax.Array],
    boxes: tuple[BlackBox, ...] = (),
) -> Task:
    """A ``Task`` whose batches are windows of sequences, drawn without replacement.

    Args:
      loss: ``(params, model_state, windows [b, length, …]) -> (loss, (state, metrics))``.
      init: ``(key) -> params``.
      sequences: float32 [runs, frames, …].
      length: of a window, in frames.
      batch_size: windows a step.
      judge: ``(params) -> mean absolute error`` of rollouts on the validation runs, a function of
        JAX.
      boxes: that ``judge`` asks.

    Raises:
      ValueError: fewer windows than the batch wants.
    """
    runs, firsts = windows(sequences, length)
    if len(runs) < batch_size:
        raise ValueError(
            f"{len(runs)} windows of {length} frames are fewer than training.batch_size "
            f"{batch_size}; make more frames"
        )

    def batch(data: PyTree, key: Key, step: jax.Array) -> tuple[jax.Array]:
        chosen = epoch_indices(key, step, len(runs), batch_size)
        frames = data["firsts"][chosen][:, None] + jnp.arange(length)
        return (data["sequences"][data["runs"][chosen][:, None], frames],)

    def evaluate(params: PyTree, model_state: PyTree, data: PyTree) -> dict[str, float]:
        return {"validation_mae": float(judge(params))}

    return Task(
        init=lambda key: (init(key), {}),
        loss=loss,
        data={
            "sequences": jnp.asarray(sequences),
            "runs": jnp.asarray(runs),
            "firsts": jnp.asarray(firsts),
        },
        batch=batch,
        evaluate=evaluate,
        steps_per_epoch=len(runs) // batch_size,
        score="validation_mae",
        higher_is_better=False,
        evaluation_samples=lambda params, model_state, data: samples_asked(judge, params),
        boxes=boxes,
    )
