"""Endpoints as people have them."""

import gc
import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import (
    BlackBoxError,
    http_endpoint,
)
from tests.blackbox.test_box import squares


def tensor(name, datatype="FP32", data=(1.0,), shape=(1, 1)):
    """An output of the Open Inference Protocol."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


@contextmanager
def server(answer, protocol="HTTP/1.0"):
    """A server on loopback; ``answer(body) -> (status, headers, bytes or parts of them)``.

    In HTTP/1.1 it keeps connections open.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = protocol

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


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_an_endpoint_that_is_left_closes_its_connections(in_a_cycle):
    answer = lambda body: as_json({"outputs": [0.0] * len(body["inputs"])})
    with server(answer, "HTTP/1.1") as url:
        left = [http_endpoint(url)]
        left[0](np.zeros((2, 3)))
        if in_a_cycle:
            left.append(left)
        del left
        gc.collect()  # pytest fails where Python warns of a socket


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
        assert time.monotonic() - start < 4  # of 6


def test_a_byte_that_does_not_come_in_time_is_no_whole_answer_in_time(monkeypatch):
    import httpx

    def late(client, body):
        raise httpx.ReadTimeout("timed out")

    host = http_endpoint("http://127.0.0.1:9", timeout=5)
    monkeypatch.setattr(type(host), "_exchange", lambda *args: late(*args[1:]))
    box = dz.black_box(host, (1,), retries=0, on_failure="nan")
    assert np.isnan(np.asarray(box(jnp.ones((1, 1))))).all()
    assert box.num_abandoned == 1


def test_a_request_to_an_endpoint_that_hangs_takes_no_other_with_it():
    def answer(body):
        time.sleep(3 if body["inputs"][0][0] == 0 else 0.3)
        return as_json({"outputs": body["inputs"]})

    with server(answer) as url:
        host = http_endpoint(url, timeout=0.8)
        options = {"max_batch": 1, "workers": 4, "retries": 0, "on_failure": "nan"}
        box = dz.black_box(host, (1,), **options)
        answers = np.asarray(box(jnp.arange(8.0)[:, None]))[:, 0]
        assert np.isnan(answers).tolist() == [True] + [False] * 7
        assert (box.num_samples, box.num_abandoned) == (8, 1)
        host.close()


@pytest.mark.parametrize(
    ("protocol", "outputs", "options", "words"),
    [
        ("plain", {"a": [[1.0]], "b": [[2.0]]}, {}, r"give output=, one of \['a', 'b'\]"),
        ("plain", {"a": [[1.0]]}, {"output": "z"}, r"no output 'z'; its outputs are \['a'\]"),
        ("plain", [[1.0]], {"output": "z"}, "leave out output='z'"),
        ("instances", [{"a": [1.0], "b": [2.0]}], {}, r"give output=, one of \['a', 'b'\]"),
        ("instances", [{"a": [1.0]}], {"output": "z"}, r"its outputs are \['a'\]"),
        ("instances", {"a": [1.0]}, {}, 'answers "predictions" otherwise than the protocol'),
        ("kserve_v2", [tensor("a"), tensor("b")], {}, r"give output=, one of \['a', 'b'\]"),
        ("kserve_v2", [tensor("a")], {"output": "z"}, r"no output 'z'; its outputs are \['a'\]"),
    ],
)
def test_which_output_of_an_endpoint_is_asked_for_once(protocol, outputs, options, words):
    name = "predictions" if protocol == "instances" else "outputs"
    with server(lambda body: as_json({name: outputs})) as url:
        box = dz.black_box(http_endpoint(url, protocol, **options), (1,))
        with pytest.raises(BlackBoxError, match=words):
            box(jnp.ones((1, 1)))
        assert box.num_calls == 1


@pytest.mark.parametrize(
    ("datatype", "number"), [("INT32", 1.7), ("BOOL", 0.3), ("UINT8", -1), ("FP16", 7e4)]
)
def test_numbers_that_an_endpoint_declares_otherwise_are_refused(datatype, number):
    answers = {"outputs": [tensor("y", datatype, [1, number], [2, 1])]}
    with server(lambda body: as_json(answers)) as url:
        box = dz.black_box(http_endpoint(url, "kserve_v2"), (1,))
        words = f"output 'y' is declared {datatype}, which does not hold {number}"
        with pytest.raises(BlackBoxError, match=words):
            box(jnp.ones((2, 1)))
        assert box.num_calls == 1


def test_numbers_that_an_endpoint_of_open_inference_does_not_know_are_named():
    box = dz.black_box(http_endpoint("http://localhost:9/", "kserve_v2"), (1,))
    with pytest.raises(BlackBoxError, match="kserve_v2 has no bfloat16: cast the input"):
        box(jnp.ones((1, 1), jnp.bfloat16))
    assert box.num_calls == 1


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


@pytest.mark.parametrize("protocol", ["plain", "instances", "kserve_v2"])
@pytest.mark.parametrize("number", [jnp.nan, -jnp.inf])
def test_numbers_that_json_cannot_say_are_not_sent_to_an_endpoint(protocol, number):
    sent = []

    def answer(body):
        sent.append(body)
        outputs = [tensor("y")] if protocol == "kserve_v2" else [[1.0]]
        return as_json({"predictions" if protocol == "instances" else "outputs": outputs})

    with server(answer) as url:
        box = dz.black_box(http_endpoint(url, protocol), (1,), backoff=0.0, on_failure="nan")
        assert jnp.isnan(box(jnp.array([[1.0], [number]])))[:, 0].tolist() == [False, True]
        assert len(sent) == 1
        box = dz.black_box(http_endpoint(url, protocol), (1,), retries=0)
        with pytest.raises(BlackBoxError, match="input holds NaN or an infinity, which JSON cann"):
            box(jnp.array([[1.0], [number]]))
        assert len(sent) == 1


def test_an_endpoint_may_begin_with_a_mark_of_its_encoding():
    content = json.dumps({"outputs": [[2.0]]}).encode("utf-8-sig")
    with server(lambda body: (200, {}, content)) as url:
        box = dz.black_box(http_endpoint(url), (1,), retries=0)
        assert box(jnp.ones((1, 1))).tolist() == [[2.0]]


def test_a_box_may_wait_for_less_than_its_endpoint():
    stop, asked = threading.Event(), []

    def answer(body):
        asked.append(1)
        if len(asked) == 1:
            stop.wait(20)
        return as_json({"outputs": body["inputs"]})

    with server(answer) as url:
        box = dz.black_box(http_endpoint(url, timeout=20), (1,), timeout=0.5, backoff=0.0)
        assert box(jnp.ones((1, 1))).tolist() == [[1.0]]
        assert (box.num_samples, box.num_abandoned) == (2, 1)
        stop.set()


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
    for url in ("localhost:8080/score", "ftp://localhost/", "http://", "score"):
        with pytest.raises(ValueError, match='url must begin with "http://HOST" or "https://HOST"'):
            http_endpoint(url)
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
