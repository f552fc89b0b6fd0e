"""The methods: no correction, trained without the solver, through its twin, by queries.

Queries are asked at the parameters (ZO-SOL), or at the solver's own inputs, where autodiff takes
over (ZO-SOL at the boundary): as many calls as a state has moving numbers, whatever the network.

Source: Um et al., NeurIPS 2020 (SRC, NON, SOL); DeepZero, section 6 (arXiv 2310.02025).
"""

import math
from collections.abc import Callable
from dataclasses import replace
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
from deepzero_jax.blackbox import BlackBox, HostFunction, black_box
from deepzero_jax.estimators import Estimator, cge, differentiable, first_order
from deepzero_jax.registry import Registry, present
from deepzero_jax.training import Task
from deepzero_jax.types import Params


class Correction(NamedTuple):
    """What all methods share.

    Attributes:
      frames: to learn from, to choose by, to be judged by.
      box: the coarse solver, which can only be queried, see ``solver_box``.
      twin: the same, differentiable, for ``fo_sol`` alone.
      network: of the correction.
      unroll: steps in a row that a loss looks at.
      batch_size: windows a step.
      correct: ``(params, states) -> states``.
      step_error: mean square of the solver's error after one step.
      unrolled_error: the mean over ``unroll`` steps in a row.
    """

    frames: Frames
    box: BlackBox
    twin: Step
    network: CorrectionNet
    unroll: int
    batch_size: int
    correct: Correct
    step_error: float
    unrolled_error: float

    @property
    def solver(self) -> Step:
        """One step by the box."""
        return stepped(self.box, self.network.num_outputs)

    @property
    def num_moving(self) -> int:
        """Numbers of a state that the solver moves."""
        *grid, _ = self.frames.train.shape[2:]
        return math.prod(grid) * self.network.num_outputs


def solver_box(host: HostFunction, state: tuple[int, ...], num_moving: int) -> BlackBox:
    """A coarse solver as a black box ``(moving, constant) -> moving``, in float64.

    Args:
      host: states [n, *grid, channels] → states one step later.
      state: shape of one.
      num_moving: leading channels that the solver moves; the others only describe the case.
    """

    def step(moving: np.ndarray, constant: np.ndarray) -> np.ndarray:
        return host(np.concatenate([moving, constant], axis=-1))[..., :num_moving]

    return black_box(step, (*state[:-1], num_moving), dtype="float64", retries=0)


def stepped(solver: Callable[[jax.Array, jax.Array], jax.Array], num_moving: int) -> Step:
    """One step of whole states by a function of their moving and their constant channels."""

    def step(states: jax.Array) -> jax.Array:
        moving, constant = states[..., :num_moving], states[..., num_moving:]
        constant = jax.lax.stop_gradient(constant)  # no slope of it is asked for
        return jnp.concatenate([solver(moving, constant), constant], axis=-1)

    return step


def make_correction(
    frames: Frames,
    host: HostFunction,
    twin: Step,
    network: CorrectionNet,
    unroll: int,
    batch_size: int,
    mask: np.ndarray | None = None,
) -> Correction:
    """Measures the units of a problem on its training frames.

    Args:
      frames: to learn from, to choose by, to be judged by.
      host: the coarse solver, which can only be queried, in NumPy.
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
    box = solver_box(host, train.shape[2:], network.num_outputs)
    solver = stepped(box, network.num_outputs)
    starts = range(0, train.shape[1] - unroll, unroll)
    first = np.concatenate([train[:, i] for i in starts])
    true = np.concatenate([train[:, i + 1 : i + 1 + unroll] for i in starts])
    found = np.asarray(jax.jit(lambda states: rollout(solver, states, unroll))(first))
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


class Method(NamedTuple):
    """A method, ready for the training loop.

    Attributes:
      task: what it trains.
      estimator: of the gradient of the parameters, and of what a step costs in queries.
    """

    task: Task
    estimator: Estimator


def _of_pairs(correction: Correction, estimator: Estimator) -> Method:
    """Of pairs: what the solver answers, and the fine frame. It has run already."""
    frames = correction.frames.train
    already = lambda states: states
    loss = rollout_loss(already, correction.correct, 1, correction.step_error)
    answers = np.asarray(jax.jit(correction.solver)(frames[:, :-1].reshape(-1, *frames.shape[2:])))
    later = frames[:, 1:].reshape(answers.shape)
    return Method(_window_task(correction, loss, np.stack([answers, later], axis=1), 2), estimator)


def _through(correction: Correction, solver: Step, estimator: Estimator) -> Method:
    """Of rollouts of the solver and the correction in turn."""
    loss = rollout_loss(solver, correction.correct, correction.unroll, correction.unrolled_error)
    task = _window_task(correction, loss, correction.frames.train, correction.unroll + 1)
    return Method(task, estimator)


def _at_the_boundary(correction: Correction, estimator: Estimator) -> Method:
    """Autodiff through the network, queries at the solver's inputs."""
    channels = correction.network.num_outputs
    solver = stepped(differentiable(correction.box, estimator), channels)
    calls = estimator.num_queries(correction.num_moving)
    outside = replace(
        first_order(), name=f"{estimator.name} at the solver", num_queries=lambda _: calls
    )
    return _through(correction, solver, outside)


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
        (correction.box,),
    )


class Training(NamedTuple):
    """How a method trains.

    Attributes:
      make: ``(correction, estimator) -> Method``. The estimator is of the gradient of the
        parameters, or of the gradient at the solver's inputs.
      estimator: ``(smoothing, chunk_size) -> Estimator``.
      at_boundary: whether the smoothing is of the solver's inputs.
      queries: whether it asks the solver for its gradient, at a smoothing.
    """

    make: Callable[[Correction, Estimator], Method]
    estimator: Callable[[float, int], Estimator]
    at_boundary: bool = False
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
        "zo_sol": Training(lambda c, e: _through(c, c.solver, e), _coordinates, queries=True),
        "zo_sol_boundary": Training(_at_the_boundary, _coordinates, at_boundary=True),
        "fo_sol": Training(lambda c, e: _through(c, c.twin, e), _autodiff),
    },
)


def make_method(name: str, correction: Correction, estimator: Estimator) -> Method:
    """What a method trains, and how.

    Args:
      name: one of ``METHODS`` that trains.
      correction: what all share.
      estimator: as in ``Training.make``.

    Raises:
      ValueError: an unknown method.
    """
    return present(METHODS, name).make(correction, estimator)


def default_estimator(name: str, smoothing: float, chunk_size: int) -> Estimator:
    """How a method makes its gradient: by coordinates where it asks the solver, else autodiff."""
    return present(METHODS, name).estimator(smoothing, chunk_size)


def corrected(correction: Correction, params: Params | None) -> Step:
    """Solver and network as one step; the solver alone without parameters."""
    if params is None:
        return correction.solver
    return lambda states: correction.correct(params, correction.solver(states))
