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
from jax.custom_batching import sequential_vmap

from deepzero_jax.applications import solver_in_the_loop as sol
from deepzero_jax.data import Dataset, load_cifar10, load_digits
from deepzero_jax.models import CNN
from deepzero_jax.training import predicted_classes
from deepzero_jax.types import Key, Params

_BATCH_SIZE = 64  # images of a query


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


def _images(
    data: Dataset,
    model: nn.Module,
    num_validation: int,
    train: bool | None = None,
    judged_at_once: int | None = None,
) -> Problem:
    """Cross-entropy of a classifier on batches of 64 images; accuracy in percent.

    Batch norm, with ``train=True``, takes the statistics of what it is given: the batch, or the
    images that are judged at once (None: all of a part).
    """
    mean, std = jnp.asarray(data.mean, jnp.float32), jnp.asarray(data.std, jnp.float32)
    order = np.random.default_rng(0).permutation(len(data.train_labels))
    held, kept = order[:num_validation], order[num_validation:]
    given = lambda images, labels: (jnp.asarray(images), jnp.asarray(labels))
    train_images, train_labels = given(data.train_images[kept], data.train_labels[kept])
    parts = {
        "validation": given(data.train_images[held], data.train_labels[held]),
        "test": given(data.test_images, data.test_labels),
    }
    options: dict[str, Any] = {} if train is None else {"train": train}

    def logits_of(params: Params, x: jax.Array) -> jax.Array:
        scaled = (x.astype(jnp.float32) / 255 - mean) / std
        return model.apply({"params": params}, scaled, mutable=["batch_stats"], **options)[0]

    def loss(params: Params, key: Key) -> jax.Array:
        chosen = jax.random.randint(key, (_BATCH_SIZE,), 0, len(kept))
        logits = logits_of(params, train_images[chosen])
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), train_labels[chosen][:, None], 1)
        return -jnp.mean(own)

    def accuracy(part: str) -> Callable[[Params], jax.Array]:
        x, y = parts[part]
        size = judged_at_once or len(y)
        cut = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), (x, y))

        def judge(params: Params) -> jax.Array:
            right = lambda part: predicted_classes(logits_of(params, part[0])) == part[1]
            return 100 * jnp.mean(jax.lax.map(right, cut))

        return judge

    empty = jnp.zeros((1, *data.train_images.shape[1:]))
    init = lambda key: model.init(key, empty, **options)["params"]
    return Problem(init, loss, {part: accuracy(part) for part in parts}, "accuracy, %")


def _cifar_cnn() -> Problem:
    """The CNN of 3,700 parameters on CIFAR-10; candidates are judged one after the other.

    Kernels of several candidates in one convolution take twice as long on a CPU.
    """
    on = _images(load_cifar10(), CNN(depth=2), 2_000, train=True, judged_at_once=500)
    return on._replace(loss=sequential_vmap(on.loss))


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
    "digits_mlp": lambda: _images(load_digits(), _MLP(), 337),
    "quickstart_cnn": lambda: _images(load_digits(), CNN(depth=2, width=12), 337, train=True),
    "cifar_cnn": _cifar_cnn,
    "pendulum": _pendulum,
    "solver_ks": _kuramoto_sivashinsky,
}
PROBLEMS = tuple(_MAKERS)


@cache
def problem(name: str) -> Problem:
    """The problem of that name; made once."""
    return _MAKERS[name]()
