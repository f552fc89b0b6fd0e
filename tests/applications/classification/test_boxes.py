"""A network of one's own that asks a black box: what is asked when, and what is not."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification import build, find_ratios, prepare_run, train_prepared
from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Pruning,
    Sampling,
    Training,
)
from deepzero_jax.applications.classification.program import planned
from deepzero_jax.training import read_metrics

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


PRUNED = replace(RECORD, pruning=Pruning(sparsity=0.5, num_directions=3, samples_per_class=2))


def test_samples_are_counted_apart_and_told_beforehand(boxes, tmp_path):
    lines = []
    with pytest.raises(ValueError, match=r"not there yet: scoring them takes 48 samples"):
        prepare_run(build(PRUNED), tmp_path, lines.append, may_ask=False)
    assert boxes.pop().num_samples == 0
    prepared = prepare_run(build(PRUNED), tmp_path, lines.append)
    (box,) = boxes
    # Two estimates of three directions and their bases, on two images of each of three classes.
    assert "48 samples of the black box" in lines[0]
    assert box.num_samples == 2 * 4 * 6
    told = str(planned(prepared))
    assert box.num_samples == 48
    # Of 24 weights 12 are drawn, on a batch of 12 images; 21 are for the test.
    assert f"at most {13 * 12} samples a step, {6 * 13 * 12} for the whole run" in told
    assert "48 already for pruning, 21 an evaluation × 2 = 42" in told
    summary = train_prepared(prepared, tmp_path, "run", lines.append)
    counted = {"training": 6 * 13 * 12, "evaluation": 42, "pruning": 48, "probing": 0}
    assert summary["box_samples"] == counted
    assert box.num_samples == sum(counted.values())
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["box_samples"] for r in records if "loss" in r] == [13 * 12] * 6
    assert [r["box_samples"] for r in records if "test_loss" in r] == [21] * 2


def test_samples_of_another_process_for_pruning_are_part_of_the_budget(boxes, tmp_path):
    find_ratios(build(PRUNED), tmp_path)
    prepared = prepare_run(build(PRUNED), tmp_path)
    assert [box.num_samples for box in boxes] == [48, 48]
    assert prepared.num_samples == {"pruning": 48}
