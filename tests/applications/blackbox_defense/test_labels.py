"""Labels of a box are kept by its content."""

import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.blackbox_defense import DefenseConfig, stages_of
from deepzero_jax.applications.blackbox_defense.labels import ask_labels
from deepzero_jax.training import RunFolderError


def save_linear(path, seed):
    """A linear model with its weights in a file beside it."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, numbers = onnx.helper, np.random.default_rng(seed).normal(size=(64, 10))
    weights = onnx.numpy_helper.from_array(numbers.astype(np.float32), "w")
    shape = onnx.numpy_helper.from_array(np.array([-1, 64]), "shape")
    of = lambda name, sizes: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "linear",
        [of("x", ["n", 8, 8, 1])],
        [of("y", ["n", 10])],
        [weights, shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.with_name("weights.bin").unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)


def test_weights_beside_the_file_are_of_the_box(tmp_path):
    path, images = tmp_path / "box.onnx", np.zeros((5, 8, 8, 1), np.uint8)
    stages = stages_of(DefenseConfig(), tmp_path / "run", log=lambda line: None)
    stages.workdir.mkdir()

    def ask():
        box = dz.black_box(dz.blackbox.onnx_model(path), (10,))
        ask_labels(box, path, images, stages)
        return box.num_samples

    save_linear(path, seed=0)
    assert [ask(), ask()] == [5, 0]
    save_linear(path, seed=1)
    with pytest.raises(RunFolderError, match="is not the box that"):
        ask()


def test_an_image_without_an_answer_has_no_label_and_is_asked_for_again(tmp_path):
    (tmp_path / "box.onnx").write_bytes(b"a box")
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    stages = stages_of(DefenseConfig(), tmp_path / "run", log=lambda line: None)
    stages.workdir.mkdir()
    broken = [True]

    def host(x):
        logits = np.concatenate([0 * x, x], axis=-1).reshape(-1, 2) - 0.005
        return np.where(broken[0] & (np.arange(len(x)) == 3)[:, None], np.nan, logits)

    box = dz.black_box(host, (2,), on_failure="nan", retries=0)
    with pytest.raises(dz.BlackBoxError, match="1 of 5 images"):
        ask_labels(box, tmp_path / "box.onnx", images, stages)
    broken[0] = False
    assert ask_labels(box, tmp_path / "box.onnx", images, stages).tolist() == [0, 1, 1, 1, 1]
    assert box.num_samples == 6
