"""A network with a black box that is too busy after some calls, and writes down each call."""

import os

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
from tests.runs import linear_behind, write_down

# Calls that are answered; one of an evaluation has other numbers of images than a step.
NUM_ANSWERED, ASKED = int(os.environ.get("BUSY_AFTER", "1000000")), os.environ.get("BUSY_ASKED", "")
calls = []


def host(x):
    calls.append(len(x))
    write_down(ASKED, x)
    if len(calls) > NUM_ANSWERED:
        raise dz.blackbox.RetryLaterError("too many", 60)
    return np.tanh(x)


def make_model(num_classes):
    return linear_behind(dz.black_box(host, (num_classes,)), num_classes)


def get_config():
    return Config(
        model=Model(name="busy:make_model"),
        data=Data(name="tests.runs:tiny_dataset", batch_size=12, augment=False),
        estimator=Estimator(smoothing=1e-3),
        pruning=Pruning(sparsity=0.0),
        optimizer=Optimizer(learning_rate=0.1),
        training=Training(num_steps=4, evaluation_epochs=0.4, checkpoint_seconds=60.0),
    )
