"""Model files as people have them."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, onnx_model


def onnx_file(folder, batch="n"):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = np.arange(6, dtype=np.float64).reshape(3, 2)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Cast", ["token"], ["shift"], to=kinds.DOUBLE),
            helper.make_node("Add", ["product", "shift"], ["y"]),
        ],
        "linear",
        [
            helper.make_tensor_value_info("x", kinds.DOUBLE, [batch, 3]),
            helper.make_tensor_value_info("token", kinds.INT64, [batch, 1]),
        ],
        [
            helper.make_tensor_value_info("product", kinds.DOUBLE, [batch, 2]),
            helper.make_tensor_value_info("y", kinds.DOUBLE, [batch, 2]),
        ],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "linear.onnx")
    return folder / "linear.onnx", weights


@pytest.mark.parametrize("batch", ["n", 1])
def test_an_onnx_file_of_several_inputs_answers(tmp_path, batch):
    path, weights = onnx_file(tmp_path, batch)
    x, tokens = jax.random.normal(jax.random.key(0), (5, 3)), jnp.arange(5)[:, None]
    expected = np.asarray(x, np.float64) @ weights
    host = pickle.loads(pickle.dumps(onnx_model(path, output="y")))
    box = dz.black_box(host, (2,))
    np.testing.assert_allclose(box(x, tokens), expected + np.arange(5)[:, None], rtol=1e-5)
    by_name = box({"token": tokens, "x": x})
    np.testing.assert_allclose(by_name, expected + np.arange(5)[:, None], rtol=1e-5)
    np.testing.assert_allclose(dz.black_box(onnx_model(path), (2,))(x, tokens), expected, rtol=1e-5)


def test_an_onnx_file_of_a_fixed_batch_is_run_so_many_at_a_time(tmp_path):
    path, weights = onnx_file(tmp_path, 4)
    x, tokens = jax.random.normal(jax.random.key(0), (6, 3)), jnp.arange(6)[:, None]
    expected = np.asarray(x, np.float64) @ weights + np.arange(6)[:, None]
    for max_batch in (None, 3, 4):
        box = dz.black_box(onnx_model(path, output="y"), (2,), max_batch=max_batch)
        np.testing.assert_allclose(box(x, tokens), expected, rtol=1e-5)
        assert box.num_samples == 6


def test_bad_onnx_files_and_inputs_are_refused(tmp_path):
    path, _ = onnx_file(tmp_path)
    with pytest.raises(ValueError, match="no ONNX file"):
        onnx_model(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="has no output 'z'"):
        onnx_model(path, output="z")
    (tmp_path / "not.onnx").write_text("nothing")
    with pytest.raises(ValueError, match="not an ONNX model"):
        onnx_model(tmp_path / "not.onnx")
    box = dz.black_box(onnx_model(path), (2,))
    with pytest.raises(BlackBoxError, match=r"takes \['x', 'token'\], got 1 inputs"):
        box(jnp.ones((2, 3)))
    with pytest.raises(BlackBoxError, match=r"input 'x' takes \[n, 3\], got \[2, 5\]"):
        box(jnp.ones((2, 5)), jnp.ones((2, 1), int))
    with pytest.raises(BlackBoxError, match=r"input 'token' takes \[n, 1\], got \[2\]"):
        box(jnp.ones((2, 3)), jnp.ones(2, int))
    # No further call could mend them.
    assert box.num_calls == 3
