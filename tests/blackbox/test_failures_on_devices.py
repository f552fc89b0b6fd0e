"""A box that fails on several devices: one error, nobody left waiting, nothing asked after it."""

from tests.marks import long
from tests.runs import on_devices

HEAD = """
import json
import os
import threading

# A device that is left waiting ends the process.
os.environ["XLA_FLAGS"] += (
    " --xla_cpu_collective_call_terminate_timeout_seconds=4"
    " --xla_cpu_collective_call_warn_stuck_timeout_seconds=2"
)
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import deepzero_jax as dz

holds, seen, lock = [0], [0], threading.Lock()


def host(x):
    with lock:
        holds[0] -= 1
        seen[0] += len(x)
        if holds[0] < 0:
            raise dz.BlackBoxError("the key has run out")
    return x.sum(1)


box = dz.black_box(host, (), dtype="float64")
x, w = jnp.ones((8, 3)), jnp.ones(3)
loss = lambda w, x: jnp.mean(box(x * w))


def tried(held, fun, *args):
    holds[0] = held
    try:
        with dz.blackbox.box_errors():
            return float(jax.tree.leaves(jax.block_until_ready(fun(*args)))[0])
    except dz.BlackBoxError as error:
        return str(error)
"""

ONE_ASKS = """
import tempfile

said = tempfile.TemporaryFile("w+")
stderr = os.dup(2)
os.dup2(said.fileno(), 2)
found, asked = {}, {}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
    for spec in (PartitionSpec(), PartitionSpec("batch")):
        args = jax.device_put(w, NamedSharding(mesh, PartitionSpec())), jax.device_put(
            x, NamedSharding(mesh, spec)
        )
        for name, fun in {
            "jit": jax.jit(loss),
            "vmap": jax.jit(lambda w, x: jnp.mean(jax.vmap(lambda r: box(r[None]))(x * w))),
            "gradient": jax.jit(dz.value_and_grad(loss, dz.cge())),
            "scan": jax.jit(
                lambda w, x: jax.lax.scan(lambda c, k: (c + loss(w * k, x), None), 0.0, w)
            ),
        }.items():
            with jax.set_mesh(mesh):
                both = [tried(held, fun, *args) for held in (0, 100, 0, 100)]
            before = seen[0]
            tried(100, fun, *args)
            asked.setdefault(name, []).append(seen[0] - before)
            found.setdefault(name, []).append(both)
    try:
        holds[0] = 0
        jax.block_until_ready(jax.jit(loss)(*args))
    except jax.errors.JaxRuntimeError as error:
        found.setdefault("plain", []).append(str(error).splitlines()[-1])
os.dup2(stderr, 2)
said.seek(0)
found |= {"said": said.read(), "asked": asked}
print(json.dumps(found))
"""


@long
def test_a_box_that_one_of_four_devices_asks_fails_all_of_them():
    found = on_devices(4, HEAD + ONE_ASKS)
    assert "rematerialization" not in found.pop("said")
    one, all_of_them = 8, {"jit": 1, "vmap": 1, "gradient": 4, "scan": 3}
    assert found.pop("asked") == {name: [n * one] * 4 for name, n in all_of_them.items()}
    assert found.pop("plain") == ["BlackBoxError: the key has run out"] * 2
    assert set(found) == {"jit", "vmap", "gradient", "scan"}
    for name, runs in found.items():
        value = 9.0 if name == "scan" else 3.0
        assert runs == [["the key has run out", value] * 2] * 4, name


EACH_ASKS = """
mesh = dz.sharding.make_mesh()
found = {}
for name, estimator in {
    "cge": dz.cge(),
    "rge": dz.rge(num_directions=6),
    "ranked": dz.rge(num_directions=6, ranked=True),
    "subtracted": dz.cge(smoothing=1e-2, reuse="none"),
}.items():
    vg = dz.value_and_grad(loss, dz.sharded(estimator, mesh))
    fun = jax.jit(lambda w, x, vg=vg: vg(w, x, key=jax.random.key(0)))
    whole = tried(100, fun, w, x)
    calls = 100 - holds[0]
    # Devices that ask as the box fails have one call each on its way.
    rows = [
        [tried(held, fun, w, x), 1 <= -holds[0] <= 4] for held in (0, calls // 2, calls - 1)
    ]
    again = tried(100, fun, w, x)
    found[name] = [whole, again, rows]
    # Two programs on their way at once.
    holds[0] = 0
    first, second = fun(w, x), fun(w, 2 * x)
    found[name].append([tried(0, lambda: one) for one in (first, second)])
    found[name].append(seen[0] == box.num_samples)
    jax.effects_barrier()
print(json.dumps(found))
"""


@long
def test_a_box_that_each_of_four_devices_asks_fails_all_of_them():
    found = on_devices(4, HEAD + EACH_ASKS)
    assert set(found) == {"cge", "rge", "ranked", "subtracted"}
    words = "the key has run out"
    for name, (whole, again, rows, both, is_counted) in found.items():
        assert whole == again == 3.0, name
        assert is_counted, name
        assert rows == [[words, True]] * 3, name
        assert both == [words] * 2, name
