"""A network with a black box that writes down in a file what it is asked, by process."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
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
    Optimizer,
    Pruning,
    Training,
)


class Network(NamedTuple):
    init: Callable
    apply: Callable


calls = itertools.count(1)


def answer(logits):
    with (Path(os.environ["BOXED_FOLDER"]) / "asked").open("a") as file:
        file.write(f"{os.getpid()} {len(logits)}\n")
    call = next(calls)
    if call > float(os.environ.get("BOXED_BREAKS_AFTER", "inf")):
        raise ValueError("the sensor is unplugged")
    if call > float(os.environ.get("BOXED_DIES_AFTER", "inf")):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.tanh(logits)


def make_model(num_classes):
    budget = os.environ.get("BOXED_BUDGET")
    box = dz.black_box(answer, (num_classes,), budget=int(budget) if budget else None)

    def init(key, images):
        weights = 0.1 * jax.random.normal(key, (8, num_classes))
        return {"bias": jnp.zeros(num_classes), "weights": weights}

    def apply(params, images):
        return box(jnp.mean(images, axis=(1, 3)) @ params["weights"]) + params["bias"]

    return Network(init, apply)


def get_config() -> Config:
    return Config(
        model=Model(name="boxed:make_model"),
        data=Data(name="digits", batch_size=6, augment=False),
        estimator=Estimator(smoothing=1e-3),
        pruning=Pruning(
            sparsity=0.75, num_directions=2, samples_per_class=1, mask_interval="7 steps"
        ),
        optimizer=Optimizer(learning_rate=0.1),
        training=Training(num_steps=12, evaluation_epochs=100, checkpoint_seconds=1e9),
    )
