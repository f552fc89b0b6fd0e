"""A box whose inputs lie on several devices: its answers can be gone on with."""

from tests.marks import long
from tests.runs import on_devices

FOUR = """
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import deepzero_jax as dz

host = lambda x: np.sum(np.asarray(x) ** 2, axis=1, keepdims=True)
single, double = dz.black_box(host, (1,)), dz.black_box(host, (1,), dtype="float64")
rows = np.arange(24, dtype=np.float32).reshape(8, 3) / 24

squares = lambda x: jnp.sum(x**2, 1, keepdims=True)


def ways(box):
    def cge(x):
        loss = lambda scale: jnp.sum(box(x * scale))
        return dz.value_and_grad(loss, dz.cge(smoothing=1e-3, central=True))(jnp.ones(3))[1]

    slopes = dz.differentiable(box, dz.cge(smoothing=1e-3, central=True))
    return {
        "answers": (box, squares),
        "differentiable": (jax.grad(lambda x: jnp.sum(slopes(x))), lambda x: 2 * x),
        "vmap": (jax.vmap(lambda row: box(row[None])[0]), squares),
        "cge": (cge, lambda x: 2 * jnp.sum(x**2, 0)),
    }


off, asked = {}, {}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
    for spec in (PartitionSpec("batch"), PartitionSpec()):
        x = jax.device_put(rows, NamedSharding(mesh, spec))
        for box in (single, double):
            for name, (fun, exact) in ways(box).items():
                for transform in (lambda f: f, jax.jit):
                    before = box.num_samples
                    with jax.set_mesh(mesh):  # eager derivatives of explicit axes want it
                        found = transform(fun)(x)
                    # Used: as it stands, and in another program.
                    gap = jnp.max(jnp.abs(found - exact(jnp.asarray(rows))))
                    again = jax.jit(lambda y: jnp.max(jnp.abs(y)))(found)
                    worst = max(float(gap), 0.0 if np.isfinite(float(again)) else 1.0)
                    # By now it has run; before, it may still be asking.
                    asked.setdefault(name, set()).add(box.num_samples - before)
                    off[name] = max(off.get(name, 0.0), worst)
print(json.dumps([off, {name: sorted(counts) for name, counts in asked.items()}]))
"""


@long
def test_answers_and_slopes_on_several_devices_can_be_used_and_are_asked_once():
    off, asked = on_devices(4, FOUR)
    assert max(off.values()) < 2e-3
    # Eight samples, and central differences of three numbers of them.
    assert asked == {"answers": [8], "vmap": [8], "differentiable": [8 + 48], "cge": [8 + 48]}
