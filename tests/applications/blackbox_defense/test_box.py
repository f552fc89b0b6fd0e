"""Boxes that were trained already: by a run of train.py, or elsewhere."""

import math
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
from deepzero_jax.applications.blackbox_defense.box import check_fit
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


def onnx_file(path, image=(8, 8, 1), classes=10, kind="FLOAT"):
    """A linear classifier."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = np.ones((math.prod(image), classes), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["cast"], to=kinds.FLOAT),
            helper.make_node("Flatten", ["cast"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", getattr(kinds, kind), ["n", *image])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["n", classes])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"image": (4,)}, r"the model's input 'x' takes \[n, 4\], got \[2, 8, 8, 1\]"),
        ({"classes": 7}, r"it gives \[2, 7\] for 2 images"),
        ({"kind": "UINT8"}, "its input 'x' takes uint8, to which images"),
        ({"kind": "FLOAT16"}, "its input 'x' takes float16, to which images"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_claims_no_folder(made, reason, tmp_path, capsys):
    onnx_file(tmp_path / "box.onnx", **made)
    arguments = [
        *("--config", "configs/defense_digits.py", "--workdir", str(tmp_path / "run")),
        *(f"--config.classifier.path={tmp_path}/box.onnx", "--config.training.methods=none"),
    ]
    assert commands.train(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    remedy = r"takes float32 images \[n, 8, 8, 1\] in \[0, 1\] and gives logits \[n, 10\]$"
    assert re.search(rf"classifier\.path .* does not fit .*{reason}.*: export it .*{remedy}", line)
    assert not (tmp_path / "run").exists()


def test_a_file_that_fits_passes(tmp_path):
    config = config_of(tmp_path / "box.onnx", ("deepzero",))
    for kind in ("FLOAT", "DOUBLE"):
        onnx_file(tmp_path / "box.onnx", kind=kind)
        check_fit(config, config.data.load(tmp_path))


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
