"""The black-box defense as a whole: a box that fails on the way."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deepzero_jax.applications.blackbox_defense import prepare_defense, stages_of, train_defenses
from deepzero_jax.applications.blackbox_defense.config import (
    AutoEncoder,
    Certification,
    Classifier,
    DefenseConfig,
    Denoiser,
    Training,
)
from deepzero_jax.applications.blackbox_defense.program import describe
from deepzero_jax.blackbox import BlackBoxError, onnx_model
from deepzero_jax.training import RunFolderError, StepFailedError
from tests.marks import thorough
from tests.problems import flatten

TINY = DefenseConfig(
    classifier=Classifier(width=2, num_epochs=1),
    denoiser=Denoiser(depth=2, width=2, pretraining_steps=2),
    autoencoder=AutoEncoder(width=2, pretraining_steps=2),
    training=Training(methods=("deepzero",), num_queries=80, batch_size=16, chunk_size=8),
    certification=Certification(num_samples=200, num_images=3, radii=(0.0, 0.25)),
)


def run(workdir, open_box=onnx_model):
    return train_defenses(TINY, workdir, log=lambda line: None, open_box=open_box)


def records_of(workdir):
    lines = (workdir / "deepzero/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def asked():
    return []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, asked):
    workdir = tmp_path_factory.mktemp("uninterrupted")

    def open_counting(path, **options):
        sound = onnx_model(path, **options)
        return lambda images: (asked.append(len(images)), sound(images))[1]

    return run(workdir, open_counting), records_of(workdir)


def test_what_the_box_was_asked_is_told_apart(uninterrupted, asked):
    told = uninterrupted[0]["box_samples"]
    assert sum(flatten(told)) == sum(asked)
    assert told["labels"] == 1437  # the training images of the digits
    assert told["certification"] == 3 * (100 + 200)
    assert told["denoiser_pretraining"]["training"] == 0
    assert told["denoiser_pretraining"]["evaluation"] == 2 * 200
    assert told["deepzero"]["training"] == 16 * uninterrupted[0]["num_queries"]["deepzero"]


def crash(images):
    raise ConnectionError("the box is gone")


def slow(fault):
    return pytest.param(*fault, marks=pytest.mark.slow)


@thorough
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (crash, "ConnectionError: the box is gone"),
        slow((lambda images: np.full((len(images), 10), np.nan), "are not finite")),
        slow((lambda images: np.zeros((len(images), 9)), r"answers must have shape \(\d+, 10\)")),
    ],
)
def test_a_failing_box_stops_the_run_which_goes_on_to_the_same_bits(
    fault, words, uninterrupted, tmp_path
):
    summary, records = uninterrupted
    metrics = tmp_path / "deepzero/metrics.jsonl"

    def open_failing(path, **options):
        sound = onnx_model(path, **options)
        failing = lambda: metrics.exists() and len(records_of(tmp_path)) >= 2
        return lambda images: fault(images) if failing() else sound(images)

    with pytest.raises(StepFailedError, match=rf"after step 2 failed: .*{words}"):
        run(tmp_path, open_failing)
    assert not (tmp_path / "summary.json").exists()
    resumed = run(tmp_path)
    for name in ("certified_accuracy", "num_queries", "abstained"):
        assert resumed[name] == summary[name]
    assert records_of(tmp_path) == records
    assert len(records) > 4


def test_labels_that_the_box_has_given_are_not_asked_again(tmp_path):
    asked = []

    def open_weak(path, **options):
        sound = onnx_model(path, **options)

        def answer(images):
            asked.append(len(images))
            if sum(asked) > 1000:
                crash(images)
            return sound(images)

        return answer

    with pytest.raises(BlackBoxError, match="the box is gone"):
        run(tmp_path, open_weak)
    dataset, stages = TINY.data.load(tmp_path), stages_of(TINY, tmp_path, lambda line: None)
    defense, _ = prepare_defense(TINY, stages, dataset)
    assert defense.box.num_samples == 1437 - 719  # of two parts the first was answered
    assert stages.box_samples["labels"] == sum(asked) + defense.box.num_samples
    again, _ = prepare_defense(TINY, stages_of(TINY, tmp_path, lambda line: None), dataset)
    assert again.box.num_samples == 0
    np.testing.assert_array_equal(again.examples.labels, defense.examples.labels)
    fresh, _ = prepare_defense(
        TINY, stages_of(TINY, tmp_path / "fresh", lambda line: None), dataset
    )
    np.testing.assert_array_equal(fresh.examples.labels, defense.examples.labels)


@pytest.mark.parametrize("held_out", [1437 - 15, 1437, 5000])
def test_too_many_images_held_out_are_one_line_before_anything_is_asked(held_out, tmp_path):
    config = replace(TINY, training=replace(TINY.training, held_out=held_out))
    with pytest.raises(ValueError, match=r"held_out .* of the 1,437 training images, and .* 16"):
        train_defenses(config, tmp_path, log=lambda line: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "smoothing", "words"),
    [
        ("deepzero", 5e-3, r"80 is less than the \d+ of one step of deepzero"),
        ("zo_boundary", 5e-3, "80 is less than the 129 of one step of zo_boundary"),
        ("zo_ae_ds", "auto", "80 is less than the 41 of one step of zo_ae_ds and the 60 of the"),
    ],
)
def test_fewer_queries_than_a_step_takes_are_one_line_before_anything_is_asked(
    method, smoothing, words, tmp_path
):
    config = replace(
        TINY,
        denoiser=replace(TINY.denoiser, width=64),
        autoencoder=replace(TINY.autoencoder, latent=40),
        training=replace(
            TINY.training, methods=(method,), smoothing=smoothing, boundary_directions=128
        ),
    )
    with pytest.raises(ValueError, match=words):
        train_defenses(config, tmp_path, log=lambda line: None)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_record_is_refused(uninterrupted, tmp_path):
    config = replace(TINY, training=replace(TINY.training, methods=("none",)))
    lines = []
    found, again = (train_defenses(config, tmp_path, lines.append) for _ in range(2))
    assert found["certified_accuracy"] == again["certified_accuracy"]
    assert not any("Task.boxes" in line for line in lines)  # nobody can name one from outside
    other = replace(config, certification=replace(config.certification, sigma=1.0))
    with pytest.raises(RunFolderError, match=r"certification\.sigma is 0\.25 there, 1\.0 here"):
        train_defenses(other, tmp_path, lines.append)


@thorough
def test_the_queries_of_a_probe_are_of_those_of_the_record(tmp_path):
    training = replace(TINY.training, methods=("zo_ae_ds",), smoothing="auto", num_queries=100)
    summary = train_defenses(replace(TINY, training=training), tmp_path, lambda line: None)
    assert 0 < summary["num_queries"]["zo_ae_ds"] <= 100


def test_the_least_radius_is_that_of_any_order():
    told = describe({"certified_accuracy": {"none": {"0.5": 0.0, "0": 0.25}}})
    assert "none 25.0 %" in told
