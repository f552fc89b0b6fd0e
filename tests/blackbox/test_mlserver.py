"""An endpoint of the Open Inference Protocol: mlserver, where it is on the path."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import http_endpoint

PLANT = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Plant(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        answers = {"y": np.sin(x).sum(axis=1, keepdims=True), "z": 2 * x}
        outputs = [NumpyCodec.encode_output(*item) for item in answers.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def url(tmp_path):
    program = shutil.which("mlserver")
    if program is None:
        pytest.skip("needs mlserver on the path")
    http, grpc, metrics = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (tmp_path / "plant.py").write_text(PLANT)
    model = {"name": "plant", "implementation": "plant.Plant"}
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    base = f"http://127.0.0.1:{http}/v2/models/plant"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([program, "start", str(tmp_path)], stdout=log, stderr=log)
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{base}/ready", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"{base}/infer"
        finally:
            server.terminate()
            server.wait(10)


def test_a_box_behind_mlserver_is_trained_through(url):
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    endpoints = {name: http_endpoint(url, "kserve_v2", output=name) for name in ("y", "z", "nope")}
    double = dz.black_box(endpoints["z"], (3,))
    np.testing.assert_allclose(double(x), 2 * x, rtol=1e-6)
    box = dz.black_box(endpoints["y"], (1,), dtype="float64", workers=2, max_batch=4)
    fun = lambda w: jnp.mean(box(jnp.asarray(x) * w))
    _, grads = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-4)))(jnp.ones(3))
    np.testing.assert_allclose(grads, (np.cos(x) * x).mean(0), atol=2e-4)
    assert box.num_samples == 4 * 7
    wrong = dz.black_box(endpoints["nope"], (1,), retries=0)
    with pytest.raises(dz.BlackBoxError, match=r"no output 'nope'; its outputs are \['y', 'z'\]"):
        wrong(x)
    for endpoint in endpoints.values():
        endpoint.close()
