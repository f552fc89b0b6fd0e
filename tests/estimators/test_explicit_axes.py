"""Estimates from arrays that are split over explicit axes: on two devices, in an own process."""

from tests.marks import long
from tests.runs import on_devices

TWO = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P, reshard
import deepzero_jax as dz

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (16, 8))
params = {"w": jax.random.normal(keys[1], (8, 4)), "v": jax.random.normal(keys[2], (4,))}
box = dz.black_box(lambda x: np.sin(x), (4,), dtype="float64")

def loss(p, x):
    hidden = jnp.tanh(x @ p["w"])
    return jnp.mean((hidden @ p["v"]) ** 2), {"hidden": hidden}

def gathered(p, x):
    return loss({name: reshard(leaf, P()) for name, leaf in p.items()}, x)

def asked(p, x):
    answers = box(x @ p["w"])
    return jnp.mean((answers @ p["v"]) ** 2), {"hidden": answers}

ESTIMATORS = {
    "difference": dz.cge(smoothing=1e-4), "none": dz.cge(smoothing=1e-3, reuse="none"),
    "rge": dz.rge(num_directions=3), "first_order": dz.first_order(),
}
SPLITS = {
    "data": (P("d"), {"w": P(), "v": P()}, loss),
    "parameters": (P(), {"w": P("d"), "v": P("d")}, gathered),
    "both": (P("d"), {"w": P(None, "d"), "v": P("d")}, gathered),
    "box": (P("d"), {"w": P(), "v": P()}, asked),
}
place = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
found = {}
for case, (data, specs, fun) in SPLITS.items():
    for name, estimator in ESTIMATORS.items():
        if case == "box" and name == "first_order":
            continue
        vg = dz.value_and_grad(fun, estimator, has_aux=True)
        own = loss if fun is gathered else fun
        whole = dz.value_and_grad(own, estimator, has_aux=True)(params, x, key=keys[0])
        split = {name: place(leaf, specs[name]) for name, leaf in params.items()}
        with jax.set_mesh(mesh):
            # One program after the other: on few cores those in flight wait for each other.
            got = jax.block_until_ready(jax.jit(vg)(split, place(x, data), key=keys[0]))
            hidden = jax.block_until_ready(jax.jit(fun)(split, place(x, data)))[1]["hidden"]
            # What an optimiser does with it.
            jax.block_until_ready(
                jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, split, got[1])
            )
            # Also where the two are not split alike.
            cosine = dz.gradient_quality(got[1], jax.tree.map(np.asarray, whole[1])).cosine
        alike = all(
            got[1][name].sharding.is_equivalent_to(split[name].sharding, split[name].ndim)
            for name in split
        )
        gaps = [
            float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(whole))
        ]
        alike &= jax.typeof(got[0][1]["hidden"]) == jax.typeof(hidden)
        found[f"{case} {name}"] = [alike, max(gaps)]
        assert abs(cosine - 1) < 1e-4, (case, name, cosine)
# Outside of a mesh that is set, and with an array that the loss closes over.
vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4), has_aux=True)
found["no mesh set"] = float(jax.jit(vg)(params, place(x, P("d")))[0][0] - loss(params, x)[0])
with jax.set_mesh(mesh):
    images = place(x, P("d"))
    split = {"w": place(params["w"], P("d")), "v": place(params["v"], P())}
    closed = lambda p: gathered(p, images)[0]
    rge = jax.jit(dz.value_and_grad(closed, dz.rge(num_directions=1, reuse="none")))
    value = jax.block_until_ready(rge(split, key=keys[0]))[0]
    found["closed over, directions"] = float(value - jax.jit(closed)(params))
    try:
        dz.value_and_grad(closed, dz.cge())(split)
    except Exception as error:
        found["closed over"] = error.__notes__[-1]
print(json.dumps(found))
"""


@long
def test_inputs_split_over_explicit_axes_give_the_same_gradients_split_as_the_parameters():
    found = on_devices(2, TWO)
    assert abs(found.pop("no mesh set")) < 1e-6
    assert abs(found.pop("closed over, directions")) < 1e-6
    assert "must reach the loss as an argument" in found.pop("closed over")
    assert len(found) == 15
    for case, (alike, gap) in found.items():
        assert alike, case
        assert gap < 2e-3, (case, gap)
