"""Losses that can only be evaluated, each with its validation and test score."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications import solver_in_the_loop as sol
from deepzero_jax.data import load_digits
from deepzero_jax.models import CNN
from deepzero_jax.types import Key, Params

_NUM_VALIDATION = 337  # of the digits for training


class Problem(NamedTuple):
    """A loss, and how a solution is judged.

    Attributes:
      init: ``(key) -> params``.
      loss: ``(params, key) -> loss`` of the batch that the key draws: one query.
      scores: ``{"validation" or "test": params -> score}``, more is better.
      unit: of the scores.
    """

    init: Callable[[Key], Params]
    loss: Callable[[Params, Key], jax.Array]
    scores: Mapping[str, Callable[[Params], jax.Array]]
    unit: str


class _MLP(nn.Module):
    """A hidden layer of 8."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.tanh(nn.Dense(8)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes)(hidden)


def _digits(model: nn.Module, batch_size: int, train: bool | None = None) -> Problem:
    """Cross-entropy on batches of scikit-learn's digits; accuracy in percent.

    Batch norm, with ``train=True``, takes the statistics of what it is given, judged or not.
    """
    data = load_digits()
    scale = lambda images: jnp.asarray((images / 255.0 - data.mean[0]) / data.std[0], jnp.float32)
    order = np.random.default_rng(0).permutation(len(data.train_labels))
    held, kept = order[:_NUM_VALIDATION], order[_NUM_VALIDATION:]
    images, labels = scale(data.train_images), jnp.asarray(data.train_labels)
    parts = {
        "validation": (images[held], labels[held]),
        "test": (scale(data.test_images), jnp.asarray(data.test_labels)),
    }
    train_images, train_labels = images[kept], labels[kept]

    options: dict[str, Any] = {} if train is None else {"train": train}

    def logits_of(params: Params, x: jax.Array) -> jax.Array:
        found = model.apply({"params": params}, x, mutable=["batch_stats"], **options)
        return found[0]

    def loss(params: Params, key: Key) -> jax.Array:
        chosen = jax.random.randint(key, (batch_size,), 0, len(kept))
        logits = logits_of(params, train_images[chosen])
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), train_labels[chosen][:, None], 1)
        return -jnp.mean(own)

    def accuracy(part: str) -> Callable[[Params], jax.Array]:
        x, y = parts[part]
        return lambda params: 100 * jnp.mean(jnp.argmax(logits_of(params, x), -1) == y)

    init = lambda key: model.init(key, train_images[:1], **options)["params"]
    return Problem(init, loss, {part: accuracy(part) for part in parts}, "accuracy, %")


def _pendulum(num_starts: int = 16, horizon: int = 200) -> Problem:
    """Swing a pendulum up: Gymnasium's dynamics and cost, a policy of 81 parameters.

    A query is an episode from each of the starts that the key draws.
    """

    def torque(params: Params, angle: jax.Array, speed: jax.Array) -> jax.Array:
        seen = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed / 8], -1)
        hidden = jnp.tanh(seen @ params["w1"] + params["b1"])
        return 2 * jnp.tanh((hidden @ params["w2"] + params["b2"])[..., 0])

    def cost(params: Params, key: Key, num_starts: int) -> jax.Array:
        keys = jax.random.split(key)
        angle = jax.random.uniform(keys[0], (num_starts,), minval=-jnp.pi, maxval=jnp.pi)
        speed = jax.random.uniform(keys[1], (num_starts,), minval=-1.0, maxval=1.0)

        def step(state: tuple[jax.Array, jax.Array], _: None) -> tuple:
            angle, speed = state
            push = torque(params, angle, speed)
            off = jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
            paid = off**2 + 0.1 * speed**2 + 0.001 * push**2
            speed = jnp.clip(speed + 0.05 * (15 * jnp.sin(angle) + 3 * push), -8, 8)
            return (angle + 0.05 * speed, speed), jnp.mean(paid)

        return jnp.mean(jax.lax.scan(step, (angle, speed), None, horizon)[1])

    def init(key: Key) -> Params:
        keys = jax.random.split(key)
        return {
            "w1": jax.random.normal(keys[0], (3, 16)) / 3**0.5,
            "b1": jnp.zeros(16),
            "w2": jax.random.normal(keys[1], (16, 1)) / 4,
            "b2": jnp.zeros(1),
        }

    judge = lambda seed: lambda params: -horizon * cost(params, jax.random.key(seed), 256)
    scores = {"validation": judge(1001), "test": judge(1002)}
    return Problem(init, lambda params, key: cost(params, key, num_starts), scores, "return")


def _kuramoto_sivashinsky() -> Problem:
    """The correction of ``configs/sol_ks.py``, 417 parameters; the solver's twin answers."""
    config = sol.SolverConfig()
    case = sol.CASES["ks"](config, Path(mkdtemp()))
    correction = sol.build_correction(config, case)
    task = sol.make_method("fo_sol", correction, sol.default_estimator("fo_sol", 1e-3, 1)).task

    def loss(params: Params, key: Key) -> jax.Array:
        return task.loss(params, {}, *task.batch(task.data, key, jnp.int32(0)))[0]

    def judge(frames: np.ndarray) -> Callable[[Params], jax.Array]:
        known = jnp.asarray(frames)

        def score(params: Params) -> jax.Array:
            move = lambda states: correction.correct(params, case.twin(states))
            found = sol.rollout(move, known[:, 0], known.shape[1] - 1)
            return -jnp.mean(jnp.abs(found - known[:, 1:].swapaxes(0, 1)))

        return score

    frames = correction.frames
    scores = {"validation": judge(frames.validation), "test": judge(frames.test)}
    return Problem(lambda key: task.init(key)[0], loss, scores, "− mean absolute error")


_MAKERS: dict[str, Callable[[], Problem]] = {
    "digits_mlp": lambda: _digits(_MLP(), 64),
    "quickstart_cnn": lambda: _digits(CNN(depth=2, width=12), 64, train=True),
    "pendulum": _pendulum,
    "solver_ks": _kuramoto_sivashinsky,
}
PROBLEMS = tuple(_MAKERS)


@cache
def problem(name: str) -> Problem:
    """The problem of that name; made once."""
    return _MAKERS[name]()
