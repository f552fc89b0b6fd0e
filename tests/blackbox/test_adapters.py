"""Endpoints, model files and programs as people have them."""

import json
import pickle
import socket
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import (
    BlackBoxError,
    http_endpoint,
    onnx_model,
    subprocess_simulator,
)
from tests.blackbox.test_box import squares


@contextmanager
def server(answer):
    """A server on loopback; ``answer(body) -> (status, headers, bytes or parts of them)``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, content = answer(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if isinstance(content, bytes):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                for part in [content] if isinstance(content, bytes) else content:
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:
                pass

        def log_message(self, *args):
            pass

    made = ThreadingHTTPServer(("localhost", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{made.server_port}/"
    finally:
        made.shutdown()
        made.server_close()


def as_json(content):
    return 200, {}, json.dumps(content).encode()


@pytest.fixture(autouse=True)
def _needs_httpx(request):
    if "endpoint" in request.node.name:
        pytest.importorskip("httpx")


def test_a_plain_endpoint_answers():
    with server(lambda body: as_json({"outputs": squares(np.array(body["inputs"])).tolist()})) as u:
        box = dz.black_box(http_endpoint(u), (1,))
        assert box(jnp.ones((2, 3))).tolist() == [[3.0], [3.0]]


def test_an_endpoint_of_instances_answers():
    def answer(body):
        rows = [{"y": sum(row["x"]) + row["t"], "z": 0} for row in body["instances"]]
        return as_json({"predictions": rows})

    with server(answer) as url:
        box = dz.black_box(http_endpoint(url, "instances", output="y"), ())
        assert box({"x": jnp.ones((2, 3)), "t": jnp.arange(2)}).tolist() == [3.0, 4.0]


def test_an_endpoint_that_dribbles_does_not_outlive_its_timeout():
    def answer(body):
        def parts():
            for _ in range(20):
                time.sleep(0.3)
                yield b" "

        return 200, {}, parts()

    with server(answer) as url:
        box = dz.black_box(http_endpoint(url, timeout=1), (1,), retries=0)
        start = time.monotonic()
        with pytest.raises(BlackBoxError, match=r"no whole answer from .* within 1 s"):
            box(jnp.ones((1, 1)))
        assert time.monotonic() - start < 1.3


@pytest.mark.parametrize("status", [307, 401, 404])
def test_an_endpoint_that_refuses_for_good_is_asked_once(status):
    with server(lambda body: (status, {}, b"go away")) as url:
        box = dz.black_box(http_endpoint(url), (1,), backoff=0.0, on_failure="nan")
        with pytest.raises(BlackBoxError, match=f"{url} answered {status}: go away"):
            box(jnp.ones((32, 1)))
        assert box.num_calls == 1


def test_an_endpoint_that_is_busy_is_asked_again_when_it_said():
    asked = []

    def answer(body):
        asked.append(time.monotonic())
        if len(asked) == 1:
            return 429, {"Retry-After": "1"}, b"slow down"
        return as_json({"outputs": body["inputs"]})

    with server(answer) as url:
        box = dz.black_box(http_endpoint(url), (1,), backoff=0.0)
        assert box(jnp.ones((1, 1))).tolist() == [[1.0]]
        assert 1.0 <= asked[1] - asked[0] < 2.0
        asked.clear()

        box = dz.black_box(http_endpoint(url), (1,), retries=0)
        with pytest.raises(BlackBoxError, match=r"RetryLaterError: .* answered 429: slow down"):
            box(jnp.ones((1, 1)))


def test_an_endpoint_that_answers_too_much_or_wrong_is_named():
    answers = {
        "x" * 50: r"longer than max_bytes=40",
        "[1]": r'must answer {"outputs": …}, got \[1\]',
        "oops": "answered no JSON: oops",
    }
    for content, words in answers.items():
        with server(lambda body, c=content: (200, {}, c.encode())) as url:
            box = dz.black_box(http_endpoint(url, max_bytes=40), (1,), retries=0)
            with pytest.raises(BlackBoxError, match=words):
                box(jnp.ones((1, 1)))
    with server(lambda body: (500, {}, b'{"error": "shape\\n mismatch"}')) as url:
        box = dz.black_box(http_endpoint(url), (1,), retries=0)
        with pytest.raises(BlackBoxError, match=r'answered 500: {"error": "shape'):
            box(jnp.ones((1, 1)))


def test_bad_options_of_an_endpoint_are_refused():
    with pytest.raises(ValueError, match="protocol must be one of"):
        http_endpoint("http://localhost/", protocol="grpc")
    with pytest.raises(ValueError, match="timeout must be"):
        http_endpoint("http://localhost/", timeout=float("nan"))


def test_an_endpoint_of_open_inference_answers():
    # A server that conforms to the protocol; mlserver itself was not tried.
    fastapi, uvicorn = pytest.importorskip("fastapi"), pytest.importorskip("uvicorn")
    app = fastapi.FastAPI()

    @app.post("/v2/models/sum/infer")
    async def infer(body: dict):
        given = {}
        for tensor in body["inputs"]:
            dtype = {"FP32": np.float32, "INT32": np.int32}[tensor["datatype"]]
            given[tensor["name"]] = np.array(tensor["data"], dtype).reshape(tensor["shape"])
        out = given["x"].sum(1, keepdims=True) + given["token"][:, None]
        return {
            "model_name": "sum",
            "outputs": [
                {"name": "other", "shape": [1], "datatype": "FP32", "data": [0.0]},
                {
                    "name": "y",
                    "shape": list(out.shape),
                    "datatype": "FP64",
                    "data": out.ravel().tolist(),
                },
            ],
        }

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    try:
        url = f"http://localhost:{port}/v2/models/sum/infer"
        inputs = {"x": jnp.ones((2, 3)), "token": jnp.arange(2)}
        box = dz.black_box(http_endpoint(url, "kserve_v2", output="y"), (1,))
        assert box(inputs).tolist() == [[3.0], [4.0]]
        box = dz.black_box(http_endpoint(url, "kserve_v2", output="z"), (1,), retries=0)
        with pytest.raises(BlackBoxError, match=r"no output 'z'; its outputs are \['other', 'y'\]"):
            box(inputs)
    finally:
        running.should_exit = True
        thread.join(5)


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


def test_a_program_that_is_not_there_is_looked_for_once():
    box = dz.black_box(subprocess_simulator(["no-such-program"]), (1,), backoff=0.0)
    with pytest.raises(BlackBoxError, match=r"'no-such-program'"):
        box(jnp.ones((32, 1)))
    assert box.num_calls == 1


JSON_PROGRAM = """
import json, sys
for number, line in enumerate(sys.stdin):
    x = json.loads(line)
    if x[0][0] == 7 and number:
        sys.exit("the mesh is broken")
    print(json.dumps([[sum(row)] for row in x]), flush=True)
"""
NPY_PROGRAM = """
import io, sys, numpy as np
pipe = sys.stdin.buffer
while True:
    np.lib.format.read_magic(pipe)
    shape, _, dtype = np.lib.format.read_array_header_1_0(pipe)
    x = np.frombuffer(pipe.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    whole = io.BytesIO()
    np.save(whole, x.sum(1, keepdims=True))
    sys.stdout.buffer.write(whole.getvalue())
    sys.stdout.flush()
"""


@pytest.mark.parametrize(("format", "program"), [("json", JSON_PROGRAM), ("npy", NPY_PROGRAM)])
def test_a_program_answers_over_its_pipes(format, program):
    host = subprocess_simulator([sys.executable, "-c", program], format)
    box = dz.black_box(host, (1,), max_batch=2)
    x = jnp.arange(15.0).reshape(5, 3)
    assert box(x)[:, 0].tolist() == x.sum(1).tolist()
    assert box.num_calls == 3
    host.close()


def test_a_program_that_dies_is_started_again():
    host = subprocess_simulator([sys.executable, "-c", JSON_PROGRAM])
    box = dz.black_box(host, (1,), backoff=0.0, retries=1)
    box(jnp.ones((1, 2)))
    assert box(jnp.full((1, 2), 7.0)).tolist() == [[14.0]]
    assert box.num_failed == 1
    box = dz.black_box(host, (1,), retries=0)
    with pytest.raises(BlackBoxError, match="ended with status 1: the mesh is broken"):
        box(jnp.full((1, 2), 7.0))
    host.close()
    with pytest.raises(ValueError, match="a list of words"):
        subprocess_simulator("simulate --fast")
    with pytest.raises(ValueError, match="format must be one of"):
        subprocess_simulator(["simulate"], "csv")
