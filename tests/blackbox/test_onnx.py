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


def saved(folder, nodes, inputs, output, **constants):
    """A model of float32 that answers with y; shapes of its inputs by name, and of y."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    info = [helper.make_tensor_value_info(n, kind, s) for n, s in [*inputs.items(), ("y", output)]]
    arrays = [onnx.numpy_helper.from_array(np.array(a), name) for name, a in constants.items()]
    made = [helper.make_node(*node[:3], **dict(node[3:])) for node in nodes]
    graph = helper.make_graph(made, "graph", info[:-1], info[-1:], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return onnx_model(folder / "model.onnx")


WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)
PRODUCT = ("MatMul", ["x", "w"], ["m"])
SQUEEZED = ("Squeeze", ["m", "axes"], ["y"])
SUM = ("ReduceSum", ["x"], ["y"], ("keepdims", 0))


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


@pytest.mark.parametrize("batch", [1, "n"])
def test_answers_without_an_axis_of_samples_are_those_of_each_sample(tmp_path, batch):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    scales = np.array([[1.0], [10.0], [100.0]], np.float32)
    boxes = saved(tmp_path, [("Mul", ["x", "s"], ["y"])], {"x": [batch, 4]}, [3, 4], s=scales)
    expected = x[:, None] * scales
    np.testing.assert_array_equal(dz.black_box(boxes, (3, 4))(x), expected)
    box = dz.black_box(boxes, (4,))
    with pytest.raises(BlackBoxError, match=r"must have shape \(2, 4\), got \(2, 3, 4\)"):
        box(x)
    if batch == "n":
        return
    constants = {"w": WEIGHTS, "axes": np.array([0])}
    logits = saved(tmp_path, [PRODUCT, SQUEEZED], {"x": [1, 4]}, [3], **constants)
    np.testing.assert_array_equal(dz.black_box(logits, (3,))(x), x @ WEIGHTS)
    with pytest.raises(BlackBoxError, match=r"must have shape \(2,\), got \(2, 3\)"):
        dz.black_box(logits, ())(x)
    total = saved(tmp_path, [SUM], {"x": [1, 4]}, [])
    assert dz.black_box(total, ())(x).tolist() == x.sum(1).tolist()


def test_an_output_of_another_shape_for_other_samples_is_refused(tmp_path):
    found = ("NonZero", ["x"], ["places"]), ("Cast", ["places"], ["y"], ("to", 1))
    host = saved(tmp_path, found, {"x": [1, 4]}, ["axes", "num"])
    with pytest.raises(BlackBoxError, match=r"'y' has another shape .* \[2, 1\] and \[2, 3\]"):
        dz.black_box(host, (2, 1))(np.array([[0, 1, 0, 0], [1, 1, 1, 0]], np.float32))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_output_over_a_whole_batch_is_refused(tmp_path, count):
    nodes = [("ReduceSum", ["x"], ["m"], ("keepdims", 0)), ("Unsqueeze", ["m", "axes"], ["y"])]
    host = saved(tmp_path, nodes, {"x": [2, 4]}, [1], axes=np.array([0]))
    box = dz.black_box(host, (), backoff=0.0)
    with pytest.raises(BlackBoxError, match=r"output 'y' has shape \[1\] for a batch of 2"):
        box(jnp.ones((count, 4)))
    assert box.num_calls == 1


@pytest.mark.parametrize("batch", ["n", 1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_an_input_that_is_a_number_has_one_for_each_sample(tmp_path, batch, count):
    nodes = [PRODUCT, ("Mul", ["m", "k"], ["y"])]
    host = saved(tmp_path, nodes, {"x": [batch, 4], "k": []}, [batch, 3], w=WEIGHTS)
    x, k = np.ones((3, 4), np.float32)[:count], np.float32([1, 10, 100])[:count]
    expected = (x @ WEIGHTS) * k[:, None]
    box = dz.black_box(host, (3,))
    np.testing.assert_array_equal(box(x, k), expected)
    np.testing.assert_array_equal(box({"k": k, "x": x}), expected)
    rows = 2 if batch == 2 else 1  # of one set of inputs
    single = dz.black_box(host, (rows, 3), batched=False)
    np.testing.assert_array_equal(single(np.ones((rows, 4)), 10.0)[0], 10 * WEIGHTS.sum(0))


def test_inputs_without_a_shape_take_any(tmp_path):
    nodes = [PRODUCT, ("Add", ["m", "shift"], ["y"])]
    x, shift = np.ones((3, 4), np.float32), np.arange(9, dtype=np.float32).reshape(3, 3)
    host = saved(tmp_path, nodes, {"x": ["n", 4], "shift": None}, ["n", 3], w=WEIGHTS)
    np.testing.assert_array_equal(dz.black_box(host, (3,))(x, shift), x @ WEIGHTS + shift)
    alone = saved(tmp_path, [*nodes[:1], ("Identity", ["m"], ["y"])], {"x": None}, None, w=WEIGHTS)
    np.testing.assert_array_equal(dz.black_box(alone, (3,))(x), x @ WEIGHTS)
