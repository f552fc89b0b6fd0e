"""Boxes that were trained already: by a run of train.py, or elsewhere."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications import commands
from deepzero_jax.applications.blackbox_defense import (
    Start,
    make_method,
    prepare_defense,
    stages_of,
)
from deepzero_jax.applications.blackbox_defense.config import Classifier, DefenseConfig, Training
from deepzero_jax.training import RunFolderError, load_trained

SHORT = ("--config.model.width=2", "--config.training.num_steps=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["--config", "configs/quickstart.py", *SHORT, "--workdir", str(folder)]
    assert commands.train(arguments) == 0
    return folder


def config_of(path, methods=("deepzero", "fo_ds")):
    return DefenseConfig(classifier=Classifier(path=str(path)), training=Training(methods=methods))


def prepared(config, workdir):
    workdir.mkdir(exist_ok=True)
    dataset = config.data.load(workdir)
    return prepare_defense(config, stages_of(config, workdir, lambda line: None), dataset)


def test_a_run_s_classifier_is_the_box_and_its_twin(trained, tmp_path):
    config = config_of(trained)
    (defense, accuracy), images = prepared(config, tmp_path), jnp.ones((3, 8, 8, 1)) / 2
    assert accuracy == load_trained(trained).summary["test_accuracy"]
    assert defense.twin is not None
    np.testing.assert_allclose(defense.box(images), defense.twin(images), atol=1e-4)
    assert not (tmp_path / "classifier").exists()  # nothing was trained

    given = config_of(tmp_path / "classifier.onnx", ("deepzero",))
    again, accuracy = prepared(given, tmp_path / "given")
    assert (again.twin, accuracy) == (None, None)
    np.testing.assert_array_equal(again.box(images), defense.box(images))


def test_another_box_in_the_place_of_the_first_is_refused(trained, tmp_path):
    config = config_of(tmp_path / "box.onnx", ("deepzero",))
    prepared(config_of(trained), tmp_path / "exporting")
    box = (tmp_path / "exporting/classifier.onnx").read_bytes()
    (tmp_path / "box.onnx").write_bytes(box)
    prepared(config, tmp_path / "run")
    (tmp_path / "box.onnx").write_bytes(box + b"\x7a\x00")  # another, if a harmless field
    with pytest.raises(RunFolderError, match=r"is not the box that .*run was begun with"):
        prepared(config, tmp_path / "run")
    (tmp_path / "box.onnx").write_bytes(box)
    assert prepared(config, tmp_path / "run")[0].box.num_samples == 0
    np.save(tmp_path / "run/labels.npy", np.zeros(3))
    (tmp_path / "run/labels.npy").rename(tmp_path / "run/labels.npz")
    with pytest.raises(RunFolderError, match=r"labels\.npz cannot be read \(a single array"):
        prepared(config, tmp_path / "run")


def test_slopes_of_a_box_without_a_twin_say_so(trained, tmp_path):
    defense, _ = prepared(config_of(trained), tmp_path)
    with pytest.raises(ValueError, match="no white-box twin"):
        make_method("fo_ds", defense._replace(twin=None), Start({}), dz.first_order())


@pytest.mark.parametrize(
    ("path", "methods", "words"),
    [
        ("{}/nowhere", ("deepzero",), "neither an ONNX file .* nor the folder of a finished run"),
        ("{}/nothing.onnx", ("deepzero",), "there is no such file"),
        ("{}/box.onnx", ("fo_ds", "zo_ds"), "leave it out, --config.training.methods=zo_ds"),
        ("trained", ("deepzero",), "was trained on digits, and data.name is cifar10"),
    ],
)
def test_a_box_that_cannot_be_had_is_one_line_and_claims_no_folder(
    path, methods, words, trained, tmp_path, capsys
):
    (tmp_path / "box.onnx").touch()
    path = trained if path == "trained" else path.format(tmp_path)
    arguments = [
        *("--config", "configs/defense_cifar10.py", "--workdir", str(tmp_path / "run")),
        f"--config.classifier.path={path}",
        f"--config.training.methods={','.join(methods)}",
    ]
    assert commands.train(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert not (tmp_path / "run").exists()
