"""A network of one's own that asks a black box: what is asked when, and what is not."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification import build, prepare_run
from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Sampling,
    Training,
)

BOXES = []


class Pair(NamedTuple):
    init: Callable
    apply: Callable


def make_model(num_classes):
    """A linear map in front of a box that bends its outputs."""
    box = dz.black_box(np.tanh, (num_classes,))
    BOXES.append(box)
    init = lambda key, x: {"w": 0.1 * jax.random.normal(key, (8, num_classes))}
    return Pair(init, lambda params, x: box(jnp.mean(x, axis=(1, 3)) @ params["w"]))


@pytest.fixture
def boxes():
    BOXES.clear()
    return BOXES


RECORD = Config(
    model=Model(name=f"{__name__}:make_model"),
    data=Data(name="tests.runs:tiny_dataset", batch_size=12, augment=False),
    estimator=Estimator(smoothing=1e-2),
    training=Training(num_steps=6, evaluation_epochs=0.6, checkpoint_seconds=0.0),
)


def test_prices_in_seconds_are_not_measured_on_a_box(boxes, tmp_path):
    sampling = Sampling(name="price_aware", budget="0.5 s")
    with pytest.raises(ValueError, match=r"budget '0\.5 s' would be measured .* the black box"):
        prepare_run(build(replace(RECORD, sampling=sampling)), tmp_path)
    assert boxes[0].num_samples == 0
