"""Model files as people have them."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, onnx_model


def onnx_of(folder, kind):
    """A model that doubles inputs of a type, and answers in it."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    info = [helper.make_tensor_value_info(name, kind, ["n", 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", *zip(info))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "double.onnx")
    return onnx_model(folder / "double.onnx")


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
    # No further call could mend them, and the first was refused before it was asked.
    assert box.num_calls == 2


def test_a_step_is_not_lost_in_a_cast_of_the_adapter(tmp_path):
    onnx = pytest.importorskip("onnx")
    host = onnx_of(tmp_path, onnx.TensorProto.FLOAT)
    point, exact = jnp.full((1, 1), 1000.0), 2.0
    estimator = dz.cge(smoothing=1e-4)

    def slope(box, cast):
        loss = lambda x: jnp.sum(box(cast(x)))
        return dz.value_and_grad(loss, estimator)(point)[1].item()

    as_it_is, to_float32 = (lambda x: x), (lambda x: x.astype(jnp.float32))
    single, double = dz.black_box(host, (1,)), dz.black_box(host, (1,), dtype="float64")
    refused = r"input 'x' takes float32 and would round the float64 .*x\.astype\('float32'\)"
    assert slope(single, as_it_is) == pytest.approx(exact, rel=1e-2)
    with pytest.raises(ValueError, match=refused):
        slope(double, as_it_is)
    with jax.enable_x64(True):
        point = jnp.full((1, 1), 1000.0, jnp.float64)
        with pytest.raises(ValueError, match=refused):
            slope(single, as_it_is)
        assert slope(single, to_float32) == pytest.approx(exact, rel=1e-2)
    assert double.num_samples == 0


def test_a_model_of_whole_numbers_says_that_it_would_round(tmp_path):
    onnx = pytest.importorskip("onnx")
    host = onnx_of(tmp_path, onnx.TensorProto.INT64)
    box = dz.black_box(host, (1,), dtype=jnp.int32)
    assert box(jnp.full((2, 1), 3)).tolist() == [[6], [6]]
    with pytest.raises(ValueError, match="takes int64 and would round the float32"):
        box(jnp.full((2, 1), 3.5))
    assert host(np.full((1, 1), 3.0)).tolist() == [[6]]


def test_whole_numbers_that_a_model_does_not_hold_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    box = dz.black_box(onnx_of(tmp_path, onnx.TensorProto.INT64), (1,), dtype=jnp.int32)
    assert box(jnp.full((1, 1), -3)).tolist() == [[-6]]
    host = onnx_of(tmp_path, onnx.TensorProto.INT8)
    for value in (300, -129):
        with pytest.raises(BlackBoxError, match=f"'x' takes int8, which does not hold {value}"):
            host(np.full((1, 1), value, np.int32))
    assert host(np.full((1, 1), 7, np.int32)).tolist() == [[14]]
