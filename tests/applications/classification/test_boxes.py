"""A network of one's own that asks a black box: what is asked when, and what is not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification import (
    build,
    find_ratios,
    plan_run,
    prepare_run,
    train_prepared,
    with_probed_smoothing,
)
from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Pruning,
    Sampling,
    Training,
)
from deepzero_jax.training import StepFailedError, read_metrics
from tests.runs import Pair, linear_behind

BOXES = []


def make_model(num_classes):
    """A linear map in front of a box that bends its outputs."""
    box = dz.black_box(np.tanh, (num_classes,))
    BOXES.append(box)
    return linear_behind(box, num_classes)


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


def test_prices_in_seconds_are_refused_before_a_probe_and_by_the_plan(boxes, tmp_path):
    probed = Estimator(smoothing="auto", reuse="none")
    record = replace(RECORD, sampling=Sampling("price_aware", budget="0.5 s"), estimator=probed)
    for of_run in (prepare_run, plan_run):
        with pytest.raises(ValueError, match=r"budget '0\.5 s' would be measured"):
            of_run(build(record), tmp_path)
        assert boxes.pop().num_samples == 0
    # Where no price is measured a budget that nobody looks at is no fault.
    dense = replace(record, sampling=replace(record.sampling, name="layer_ratios"))
    assert "queries" in str(plan_run(build(dense), tmp_path))


PRUNED = replace(RECORD, pruning=Pruning(sparsity=0.5, num_directions=3, samples_per_class=2))


def test_samples_are_counted_apart_and_told_beforehand(boxes, tmp_path):
    lines = []
    told = str(plan_run(build(PRUNED), tmp_path))
    assert "zo_grasp is scored before the first step: 8 queries, 48 samples" in told
    assert "not measured, as this plan asks no black box" in told
    assert boxes.pop().num_samples == 0
    prepared = prepare_run(build(PRUNED), tmp_path, lines.append)
    (box,) = boxes
    # Two estimates of three directions and their bases, on two images of each of three classes.
    assert "48 samples of the black box" in lines[0]
    assert box.num_samples == 2 * 4 * 6
    told = str(plan_run(build(PRUNED), tmp_path))
    assert boxes.pop().num_samples == box.num_samples == 48
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


def test_samples_of_a_probe_and_of_pruning_are_counted_once(boxes, tmp_path):
    record = replace(PRUNED, estimator=Estimator(smoothing="auto", reuse="none"))
    prepared = prepare_run(build(record), tmp_path)
    told = train_prepared(prepared, tmp_path, "run")["box_samples"]
    assert told["pruning"] == 48
    assert sum(told.values()) == boxes[0].num_samples
    # A process that goes on finds the same in the folder.
    again = prepare_run(build(record), tmp_path)
    assert again.num_samples == {"pruning": 48, "probing": told["probing"]}
    assert boxes[1].num_samples == 48 + told["probing"]


def test_a_probe_adds_to_what_the_ratios_of_another_record_took(boxes, tmp_path):
    record = replace(PRUNED, estimator=Estimator(smoothing="auto", reuse="none"))
    find_ratios(build(record), tmp_path)
    other = replace(record, training=replace(record.training, num_steps=5))
    prepared = prepare_run(build(other), tmp_path)
    told = train_prepared(prepared, tmp_path, "run")["box_samples"]
    assert (told["pruning"], told["probing"] > 0) == (48, True)
    assert boxes[1].num_samples == sum(told.values())


def test_samples_of_another_process_for_pruning_are_part_of_the_budget(boxes, tmp_path):
    find_ratios(build(PRUNED), tmp_path)
    prepared = prepare_run(build(PRUNED), tmp_path)
    assert [box.num_samples for box in boxes] == [48, 48]
    assert prepared.num_samples == {"pruning": 48}


def test_a_picture_that_a_kill_has_left_undrawn_is_drawn(boxes, tmp_path):
    find_ratios(build(PRUNED), tmp_path)
    (tmp_path / "ratios.png").unlink()
    find_ratios(build(PRUNED), tmp_path)
    assert (tmp_path / "ratios.png").exists()
    assert boxes[1].num_calls == boxes[0].num_calls


def test_a_probed_smoothing_is_told_kept_and_asked_for_once(boxes, tmp_path):
    record = replace(RECORD, estimator=Estimator(smoothing="auto", reuse="none"))
    lines = []
    told = str(plan_run(build(record), tmp_path))
    assert "at most 60 queries more, 720 samples of the black box" in told
    assert boxes.pop().num_samples == 0
    prepared = prepare_run(build(record), tmp_path, lines.append)
    (box,), probing = boxes, prepared.experiment.probing
    assert "probing the smoothing, at most 60 queries, 720 samples of the black box" in lines[0]
    probe = probing.probe
    assert box.num_samples == probing.num_samples == 12 * probe.num_queries
    assert prepared.experiment.estimator.probe == probe
    box.budget = box.num_samples + 2 * 25 * 12
    with pytest.raises(StepFailedError, match="step 3 failed: it sends 300 samples"):
        train_prepared(prepared, tmp_path, "run", lines.append)
    told = next(line for line in lines if "smoothing     " in line)
    assert f"smoothing     {probe.smoothing:.2g}, probed" in told
    assert f"err by {probe.error:.2g}" in told
    assert f"+ {probe.num_queries} for probing" in told
    again = prepare_run(build(record), tmp_path, lines.append)
    assert again.experiment.probing == probing
    assert boxes[1].num_samples == probing.num_samples
    summary = train_prepared(again, tmp_path, "run", lines.append)
    counted = {"training": 6 * 25 * 12, "evaluation": 42, "pruning": 0}
    assert summary["box_samples"] == {**counted, "probing": probing.num_samples}
    assert summary["num_queries"] == 6 * 25 + probe.num_queries
    assert boxes[1].num_samples == sum(counted.values()) + probing.num_samples


def test_central_differences_take_their_own_and_what_has_no_noise_none(boxes, tmp_path):
    central = Estimator(smoothing="auto", reuse="none", central=True)
    found = with_probed_smoothing(build(replace(RECORD, estimator=central)), tmp_path / "a")
    assert f"smoothing={found.probing.probe.central_smoothing}" in repr(found.estimator)
    lines = []
    propagated = replace(RECORD, estimator=Estimator(smoothing="auto"), model=Model("cnn1", 2))
    found = with_probed_smoothing(build(propagated), tmp_path / "b", lines.append)
    assert found.probing is None
    assert "is not probed" in lines[0]


def make_hard_model(num_classes):
    """A box with hard labels, which answers no small step."""
    hard = lambda x: 4 * np.eye(num_classes, dtype=np.float32)[np.argmax(x, axis=1)]
    box = dz.black_box(hard, (num_classes,))
    shapes = {"v": (8, 8), "w": (8, num_classes)}

    def init(key, x):
        return {name: jax.random.normal(key, shape) for name, shape in shapes.items()}

    def apply(params, x):
        return box(jnp.tanh(jnp.mean(x, axis=(1, 3)) @ params["v"]) @ params["w"])

    return Pair(init, apply)


def make_idle_model(num_classes):
    """Most of its parameters do nothing."""
    init = lambda key, x: {"idle": jnp.ones((8, 8)), "w": jnp.ones((8, num_classes))}
    return Pair(init, lambda params, x: jnp.mean(x, axis=(1, 3)) @ params["w"])


def pruned(**fields):
    model = Model(name=f"{__name__}:{fields.pop('model', 'make_model')}")
    pruning = Pruning(sparsity=0.5, num_directions=3, **{"samples_per_class": 2, **fields})
    return build(replace(RECORD, model=model, pruning=pruning))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model": "make_hard_model", "smoothing": 1e-6},
            r"pruning.scores=zo_grasp: scores are all 0, .* \(at pruning.smoothing=1e-06, ",
        ),
        ({"smoothing": 1e-10}, "^pruning.smoothing 1e-10 is below the resolution of params.*-07$"),
        (
            {"samples_per_class": 70},
            "^pruning.samples_per_class is 70, but class 0 has 20 images; give at most",
        ),
    ],
)
def test_scores_that_rank_nothing_are_refused_and_their_field_named(fields, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        find_ratios(pruned(**fields), tmp_path, lambda line: None)
    assert not (tmp_path / "ratios.json").exists()


def test_scores_of_which_most_are_equal_are_told(tmp_path):
    lines = []
    find_ratios(pruned(model="make_idle_model", scores="grasp"), tmp_path, lines.append)
    assert lines[1].startswith("73 % of the scores are equal, and are ranked by their position")


def test_random_scores_look_at_no_image(tmp_path):
    found = find_ratios(pruned(scores="random", samples_per_class=70), tmp_path, lambda line: None)
    assert found.num_queries == 0
