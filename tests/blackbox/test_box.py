import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import http_endpoint, onnx_model
from tests.conftest import ROOT


def squares(samples):
    return np.sum(samples**2, axis=1, keepdims=True)


def counted(function):
    sizes = []

    def host(samples):
        sizes.append(len(samples))
        return function(samples)

    return host, sizes


def test_answers_and_counts_under_jit_vmap_and_scan():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,))
    x = jax.random.normal(jax.random.key(0), (3, 5, 4))
    expected = np.sum(np.asarray(x) ** 2, axis=2, keepdims=True)
    np.testing.assert_allclose(jax.jit(jax.vmap(box))(x), expected, rtol=1e-6)
    assert sizes == [15]
    _, out = jax.lax.scan(lambda carry, v: (carry, box(v)), 0, x)
    assert out.shape == (3, 5, 1)
    assert (box.num_samples, box.num_calls) == (30, 4)


def test_the_batch_limit_is_kept():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,), max_batch=4)
    assert box(jnp.ones((10, 2))).shape == (10, 1)
    assert sizes == [4, 4, 2]


def test_the_box_is_black():
    box = dz.black_box(squares, (1,))
    with pytest.raises(ValueError, match="do not support JVP"):
        jax.grad(lambda x: jnp.sum(box(x)))(jnp.ones((2, 3)))


def test_cge_trains_through_a_box_in_few_calls():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,))
    fun = lambda w, x: jnp.mean(box(x * w))
    x = jax.random.normal(jax.random.key(0), (8, 3))
    w = jnp.array([1.0, -2.0, 0.5])
    vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-3, batch_size=64)))
    value, grads = vg(w, x)
    exact = 2 * w * jnp.mean(x**2, axis=0)
    np.testing.assert_allclose(grads, exact, rtol=2e-2, atol=2e-3)
    assert float(value) == pytest.approx(float(jnp.mean(jnp.sum((x * w) ** 2, 1))), rel=1e-5)
    assert sizes == [8, 24]


def test_failures_are_tried_again():
    failures = iter([RuntimeError("busy"), np.full((2, 1), np.nan), np.zeros((3, 1))])

    def host(samples):
        failure = next(failures, None)
        if isinstance(failure, Exception):
            raise failure
        return squares(samples) if failure is None else failure

    box = dz.black_box(host, (1,), retries=3, backoff=0.01)
    assert box(jnp.ones((2, 3))).tolist() == [[3.0], [3.0]]
    assert (box.num_samples, box.num_calls) == (2, 4)


def slow_once():
    calls = []

    def host(samples):
        calls.append(1)
        if len(calls) == 1:
            time.sleep(1.0)
        return squares(samples)

    return host


def test_a_call_that_hangs_is_given_up():
    box = dz.black_box(slow_once(), (1,), timeout=0.2, retries=1, backoff=0.0)
    assert box(jnp.ones((1, 3))).tolist() == [[3.0]]
    assert box.num_calls == 2


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x: np.full((len(x), 1), np.inf), "2 of 2 answers are not finite"),
        (lambda x: np.zeros(len(x)), r"answers must have shape \(2, 1\), got \(2,\)"),
    ],
)
def test_the_last_failure_is_named(host, words):
    box = dz.black_box(host, (1,), retries=1, backoff=0.0)
    with pytest.raises(Exception, match=words) as caught:
        jax.block_until_ready(box(jnp.ones((2, 3))))
    assert "call 2 of the black box, with 2 samples" in str(caught.value)
    assert box.num_samples == 0


def test_the_budget_is_kept():
    box = dz.black_box(squares, (1,), budget=5)
    box(jnp.ones((4, 2)))
    with pytest.raises(Exception, match="the budget of 5 samples does not hold 2 more after 4"):
        jax.block_until_ready(box(jnp.ones((2, 2))))
    assert box.num_samples == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"timeout": 0}, "timeout and backoff"),
    ],
)
def test_bad_limits_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        dz.black_box(squares, (1,), **options)


def test_an_endpoint_answers(tmp_path):
    pytest.importorskip("httpx")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps({"outputs": squares(np.asarray(body["inputs"])).tolist()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    box = dz.black_box(http_endpoint(f"http://localhost:{server.server_port}/"), (1,))
    assert box(jnp.ones((2, 3))).tolist() == [[3.0], [3.0]]
    server.shutdown()
    server.server_close()


def test_an_onnx_file_answers(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "linear.onnx")
    box = dz.black_box(onnx_model(tmp_path / "linear.onnx"), (2,))
    x = jax.random.normal(jax.random.key(0), (5, 3))
    np.testing.assert_allclose(box(x), x @ weights, rtol=1e-5)
    with pytest.raises(ValueError, match="no ONNX file"):
        onnx_model(tmp_path / "other.onnx")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose the cores here")
def test_one_core_answers_under_scan():
    # On one core jaxlib 0.10 waits for ever, unless told otherwise (platform.py).
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import deepzero_jax as dz, jax, numpy as np
box = dz.black_box(lambda x: 0.5 * x, (1024,))
step = jax.jit(lambda x: jax.lax.scan(lambda s, _: (box(2 * s), s.sum()), x, length=4))
for _ in range(10):
    last, sums = step(np.ones((5000, 1024), np.float32))
print(last.sum())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert float(found.stdout) == 5000 * 1024
