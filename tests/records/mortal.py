"""A network that asks a box, whose host writes down what it is asked, and may end the process."""

import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz
from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Pruning,
    Training,
)

# Where the host writes, one line a call, and which of its calls it does not live through.
ASKED, LAST = os.environ.get("MORTAL_ASKED", ""), int(os.environ.get("MORTAL_LAST", "0"))
calls = []


def host(x):
    calls.append(len(x))
    with open(ASKED, "a") as file:
        file.write(f"{len(x)}\n")
    if len(calls) == LAST:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.tanh(x)


class Pair(NamedTuple):
    init: Callable
    apply: Callable


def make_model(num_classes):
    box = dz.black_box(host, (num_classes,))
    init = lambda key, x: {"w": 0.1 * jax.random.normal(key, (8, num_classes))}
    return Pair(init, lambda params, x: box(jnp.mean(x, axis=(1, 3)) @ params["w"]))


def get_config():
    return Config(
        model=Model(name="mortal:make_model"),
        data=Data(name="tests.runs:tiny_dataset", batch_size=12, augment=False),
        estimator=Estimator(smoothing="auto", reuse="none"),
        pruning=Pruning(sparsity=0.5, num_directions=3, samples_per_class=2),
        training=Training(num_steps=6, evaluation_epochs=0.6, checkpoint_seconds=60.0),
    )
