"""The four methods: no correction, trained without the solver, through its twin, by queries.

Source: Um et al., NeurIPS 2020 (SRC, NON, SOL); DeepZero, section 6 (arXiv 2310.02025).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.solver_in_the_loop.correction import (
    Correct,
    CorrectionNet,
    additive_correction,
)
from deepzero_jax.applications.solver_in_the_loop.rollout import (
    Frames,
    Step,
    WindowLoss,
    mean_absolute_errors,
    rollout,
    rollout_loss,
    window_task,
)
from deepzero_jax.estimators import Estimator, cge, first_order
from deepzero_jax.registry import Registry, present
from deepzero_jax.training import Task
from deepzero_jax.types import Params


class Correction(NamedTuple):
    """What all methods share.

    Attributes:
      frames: to learn from, to choose by, to be judged by.
      box: the coarse solver, which can only be queried.
      twin: the same, differentiable, for ``fo_sol`` alone.
      network: of the correction.
      unroll: steps in a row that a loss looks at.
      batch_size: windows a step.
      correct: ``(params, states) -> states``.
      step_error: mean square of the solver's error after one step.
      unrolled_error: the mean over ``unroll`` steps in a row.
    """

    frames: Frames
    box: Step
    twin: Step
    network: CorrectionNet
    unroll: int
    batch_size: int
    correct: Correct
    step_error: float
    unrolled_error: float


def make_correction(
    frames: Frames,
    box: Step,
    twin: Step,
    network: CorrectionNet,
    unroll: int,
    batch_size: int,
    mask: np.ndarray | None = None,
) -> Correction:
    """Measures the units of a problem on its training frames.

    Args:
      frames: to learn from, to choose by, to be judged by.
      box: the coarse solver, which can only be queried.
      twin: the same, differentiable.
      network: of the correction.
      unroll: steps in a row that a loss looks at.
      batch_size: windows a step.
      mask: where the network may change a state; None: everywhere.

    Raises:
      ValueError: fewer frames than a window wants.
    """
    train = frames.train
    if train.shape[1] <= unroll:
        raise ValueError(
            f"training.unroll {unroll} needs runs of at least {unroll + 1} frames, "
            f"got {train.shape[1]}"
        )
    axes = tuple(range(train.ndim - 1))
    scale = np.maximum(train.std(axes), 1e-6)
    # Rollouts from frames that are apart, so that each counts once.
    starts = range(0, train.shape[1] - unroll, unroll)
    first = np.concatenate([train[:, i] for i in starts])
    true = np.concatenate([train[:, i + 1 : i + 1 + unroll] for i in starts])
    found = np.asarray(jax.jit(lambda states: rollout(box, states, unroll))(first))
    squares = (np.swapaxes(found, 0, 1) - true)[..., : network.num_outputs] ** 2
    step_error, unrolled_error = float(squares[:, 0].mean()), float(squares.mean())
    correct = additive_correction(
        network,
        jnp.asarray(train.mean(axes)),
        jnp.asarray(scale),
        jnp.asarray(np.sqrt(step_error), jnp.float32),
        None if mask is None else jnp.asarray(mask),
    )
    return Correction(
        frames, box, twin, network, unroll, batch_size, correct, step_error, unrolled_error
    )


def _of_pairs(correction: Correction) -> Task:
    """Of pairs: what the solver answers, and the fine frame. It has run already."""
    frames = correction.frames.train
    already = lambda states: states
    loss = rollout_loss(already, correction.correct, 1, correction.step_error)
    answers = np.asarray(jax.jit(correction.box)(frames[:, :-1].reshape(-1, *frames.shape[2:])))
    later = frames[:, 1:].reshape(answers.shape)
    return _window_task(correction, loss, np.stack([answers, later], axis=1), 2)


def _through(correction: Correction, solver: Step) -> Task:
    """Of rollouts of the solver and the correction in turn."""
    loss = rollout_loss(solver, correction.correct, correction.unroll, correction.unrolled_error)
    return _window_task(correction, loss, correction.frames.train, correction.unroll + 1)


def _window_task(
    correction: Correction, loss: WindowLoss, sequences: np.ndarray, length: int
) -> Task:
    shape = (1, *correction.frames.train.shape[2:])
    validation = jnp.asarray(correction.frames.validation)
    judge = jax.jit(
        lambda params: jnp.mean(mean_absolute_errors(corrected(correction, params), validation))
    )
    return window_task(
        loss,
        lambda key: correction.network.init(key, jnp.zeros(shape))["params"],
        sequences,
        length,
        correction.batch_size,
        judge,
    )


class Training(NamedTuple):
    """How a method trains.

    Attributes:
      make: ``(correction) -> Task``.
      estimator: ``(smoothing, chunk_size) -> Estimator``.
      queries: whether it asks the solver for its gradient, at a smoothing.
    """

    make: Callable[[Correction], Task]
    estimator: Callable[[float, int], Estimator]
    queries: bool = False


def _autodiff(smoothing: float, chunk_size: int) -> Estimator:
    del smoothing, chunk_size
    return first_order()


def _coordinates(smoothing: float, chunk_size: int) -> Estimator:
    return cge(smoothing=smoothing, batch_size=chunk_size)


# None: trains nothing, the solver alone.
METHODS: Registry[Training | None] = Registry(
    "method",
    {
        "src": None,
        # The solver's answers are made beforehand: only the network is differentiated.
        "non": Training(_of_pairs, _autodiff),
        "zo_sol": Training(lambda c: _through(c, c.box), _coordinates, queries=True),
        "fo_sol": Training(lambda c: _through(c, c.twin), _autodiff),
    },
)


def make_task(name: str, correction: Correction) -> Task:
    """What a method trains.

    Args:
      name: one of ``METHODS`` that trains.
      correction: what all share.

    Raises:
      ValueError: an unknown method.
    """
    return present(METHODS, name).make(correction)


def default_estimator(name: str, smoothing: float, chunk_size: int) -> Estimator:
    """How a method makes its gradient: by coordinates for ``zo_sol``, else by autodiff."""
    return present(METHODS, name).estimator(smoothing, chunk_size)


def corrected(correction: Correction, params: Params | None) -> Step:
    """Solver and network as one step; the solver alone without parameters."""
    if params is None:
        return correction.box
    return lambda states: correction.correct(params, correction.box(states))
