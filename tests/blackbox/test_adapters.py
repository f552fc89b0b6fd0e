import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import http_endpoint, onnx_model
from tests.blackbox.test_box import squares


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
