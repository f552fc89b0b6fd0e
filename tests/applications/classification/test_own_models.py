"""Networks of one's own of other kinds than the built-in ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification import build, find_ratios, prepare_run
from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Pruning,
    Training,
)
from deepzero_jax.pruning import load_ratios
from tests.marks import few, long

BOXES = []
RECORD = Config(
    data=Data(name="tests.runs:tiny_dataset", batch_size=12, augment=False),
    estimator=Estimator(smoothing=1e-2),
    training=Training(num_steps=2, checkpoint_seconds=0.0),
)


class Pair(NamedTuple):
    init: Callable
    apply: Callable


def boxed(init, weights):
    """A linear map in front of a box, its parameters of any structure."""

    def make(num_classes):
        box = dz.black_box(np.tanh, (num_classes,))
        BOXES.append(box)
        apply = lambda params, x: box(jnp.mean(x, axis=(1, 3)) @ weights(params))
        return Pair(lambda key, x: init(jax.random.normal(key, (8, num_classes))), apply)

    return make


make_tuple = boxed(lambda w: (w,), lambda params: params[0])
make_pairs = boxed(lambda w: [(w, jnp.zeros(3))], lambda params: params[0][0] + params[0][1])
make_array = boxed(lambda w: w, lambda params: params)
make_taken = boxed(lambda w: {"path": w, "file": w}, lambda p: p["path"] + p["file"])


def of_model(name, **fields):
    return replace(RECORD, model=Model(name=f"{__name__}:{name}"), **fields)


PRUNING = Pruning(sparsity=0.5, num_directions=3, samples_per_class=2)


@pytest.mark.parametrize(
    ("model", "paths"),
    [
        ("make_tuple", ["0"]),
        ("make_pairs", ["0/0", "0/1"]),
        ("make_array", [""]),
        ("make_taken", ["path", "file"]),
    ],
)
@pytest.mark.parametrize("mask", few(["gradient", "weights"], rest=long))
def test_parameters_of_any_structure_are_pruned(model, paths, mask, tmp_path):
    experiment = build(of_model(model, pruning=replace(PRUNING, mask=mask)))
    prepared = prepare_run(experiment, tmp_path, lambda line: None)
    assert list(load_ratios(tmp_path / "ratios.json").ratios) == paths
    jax.block_until_ready(prepared.step.run(prepared.state))


def make_idle(num_classes):
    """Most of its parameters do nothing."""
    init = lambda key, x: ({"idle": jnp.ones((8, 8))}, jnp.ones((8, num_classes)))
    return Pair(init, lambda params, x: jnp.mean(x, axis=(1, 3)) @ params[1])


def test_ratios_are_kept_before_anything_is_said_about_them(tmp_path):
    def log(line):
        if "are equal" in line:
            raise BrokenPipeError

    experiment = build(of_model("make_idle", pruning=replace(PRUNING, scores="grasp")))
    with pytest.raises(BrokenPipeError):
        find_ratios(experiment, tmp_path, log)
    assert list(load_ratios(tmp_path / "ratios.json").ratios) == ["0/idle", "1"]


def outputs(of):
    """A linear map whose outputs are changed."""

    def make(num_classes):
        init = lambda key, x: {"w": jnp.ones((8, num_classes))}
        return Pair(init, lambda params, x: of(jnp.mean(x, axis=(1, 3)) @ params["w"]))

    return make


make_few = outputs(lambda logits: logits[:, :2])
make_flat = outputs(lambda logits: logits[:, 0])
make_nested = outputs(lambda logits: logits[None])
make_transposed = outputs(lambda logits: logits.T)
make_whole = outputs(lambda logits: logits.astype(jnp.int32))
make_two = outputs(lambda logits: (logits, logits))
make_more = outputs(lambda logits: jnp.tile(logits, 2))


@pytest.mark.parametrize(
    ("model", "got"),
    [
        ("make_few", r"float32\[12, 2\]"),
        ("make_flat", r"float32\[12\]"),
        ("make_nested", r"float32\[1, 12, 3\]"),
        ("make_transposed", r"float32\[3, 12\]"),
        ("make_whole", r"int32\[12, 3\]"),
        ("make_two", "tuple"),
    ],
)
def test_outputs_that_are_no_logits_are_refused_at_once(model, got):
    words = rf"^the model must give logits .*, here float32\[12, 3\] .*, got {got}: .* last layer"
    with pytest.raises(ValueError, match=words):
        build(of_model(model))


def test_more_outputs_than_classes_are_no_fault():
    build(of_model("make_more"))
