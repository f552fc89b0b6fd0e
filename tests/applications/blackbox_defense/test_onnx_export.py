import jax
import numpy as np
import pytest

from deepzero_jax.applications.blackbox_defense import DnCNN, export_onnx
from deepzero_jax.blackbox import onnx_model
from deepzero_jax.coordinates import num_coordinates
from deepzero_jax.models import CNN, ResNet


@pytest.mark.parametrize(
    ("model", "shape"),
    [(CNN(depth=2, width=5), (8, 8, 1)), (ResNet(depth=20, width=4), (32, 32, 3))],
    ids=["cnn", "resnet"],
)
def test_the_file_answers_as_the_network_does(model, shape, tmp_path):
    images = np.random.default_rng(0).uniform(size=(6, *shape)).astype(np.float32)
    variables = model.init(jax.random.key(0), images)
    # Statistics that are not those of an untrained network.
    shifted = jax.tree.map(lambda leaf: leaf + 0.1, variables["batch_stats"])
    variables = {**variables, "batch_stats": shifted}
    mean, std = (0.4,) * shape[-1], (0.25,) * shape[-1]
    export_onnx(model, variables, shape, mean, std, tmp_path / "box.onnx")
    answers = onnx_model(tmp_path / "box.onnx")(images)
    expected = model.apply(variables, (images - np.asarray(mean)) / np.asarray(std))
    np.testing.assert_allclose(answers, expected, atol=1e-4, rtol=1e-4)


def test_other_networks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot export a DnCNN; known: CNN, ResNet"):
        export_onnx(DnCNN(), {}, (8, 8, 1), (0.0,), (1.0,), tmp_path / "box.onnx")


def test_the_papers_denoiser_has_its_size_and_starts_as_the_identity():
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    denoiser = DnCNN()
    variables = denoiser.init(jax.random.key(1), images)
    assert num_coordinates(variables["params"]) == 558_400
    np.testing.assert_array_equal(denoiser.apply(variables, images), images)
    with pytest.raises(ValueError, match="depth of at least 2"):
        DnCNN(depth=1)
