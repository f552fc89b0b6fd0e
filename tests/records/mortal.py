"""A network that asks a box, whose host writes down what it is asked, and may end the process."""

import os
import signal

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
from tests.runs import linear_behind, write_down

# Where the host writes, one line a call, and which of its calls it does not live through.
ASKED, LAST = os.environ.get("MORTAL_ASKED", ""), int(os.environ.get("MORTAL_LAST", "0"))
calls = []


def host(x):
    calls.append(len(x))
    write_down(ASKED, x)
    if len(calls) == LAST:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.tanh(x)


def make_model(num_classes):
    return linear_behind(dz.black_box(host, (num_classes,)), num_classes)


def get_config():
    return Config(
        model=Model(name="mortal:make_model"),
        data=Data(name="tests.runs:tiny_dataset", batch_size=12, augment=False),
        estimator=Estimator(smoothing="auto", reuse="none"),
        pruning=Pruning(sparsity=0.5, num_directions=3, samples_per_class=2),
        training=Training(num_steps=6, evaluation_epochs=0.6, checkpoint_seconds=60.0),
    )
