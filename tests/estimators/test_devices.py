from tests.marks import long
from tests.runs import on_devices

EIGHT = """
import json
import jax, jax.numpy as jnp, numpy as np
import deepzero_jax as dz
from deepzero_jax.sharding import make_mesh, replicate, split_batch
from tests.problems import flatten, network_loss

fun, params, args = network_loss("cnn1", width=2)
coordinates = dz.sample_coordinates(jax.random.key(0), params, {"block1_conv/kernel": 0.3})
result = {"devices": jax.device_count()}
ESTIMATORS = {
    "cge": dz.cge(smoothing=1e-3),
    "central": dz.cge(smoothing=1e-3, central=True),
    "none": dz.cge(smoothing=1e-1, reuse="none"),
    "rge": dz.rge(smoothing=1e-3, num_directions=11),
    "rge_central": dz.rge(smoothing=1e-3, num_directions=11, central=True),
    "first_order": dz.first_order(),
}
for name, estimator in ESTIMATORS.items():
    grads = {}
    meshes = [(1, 1), (2, 1), (8, 1), (2, 2)] if name == "cge" else [(1, 1), (8, 1)]
    for coordinates_axis, data in meshes:
        mesh = make_mesh(coordinates_axis, data)
        vg = dz.value_and_grad(fun, dz.sharded(estimator, mesh), has_aux=True)

        def step(params, args, key, coordinates, mesh=mesh, vg=vg):
            state, *batch = args
            return vg(params, state, *split_batch(batch, mesh), key=key, coordinates=coordinates)

        placed = replicate((params, args, jax.random.key(3), coordinates), mesh)
        grads[coordinates_axis, data] = flatten(jax.device_get(jax.jit(step)(*placed)[1]))
    exact = grads[1, 1]
    result[name] = {
        str(axes): float(np.linalg.norm(g - exact) / np.linalg.norm(exact))
        for axes, g in grads.items()
    }

# A traced smoothing, steps of each leaf, keyword arguments traced and not.
def loss(w, x, *, scale, square):
    return scale * jnp.sum(jnp.sin(w["a"] * x) ** (2 if square else 1)) + jnp.sum(w["b"] ** 2)

weights, x = {"a": jnp.arange(1.0, 12.0), "b": jnp.ones(3)}, jnp.linspace(0.0, 1.0, 11)
for name, make in {
    "traced": lambda step: dz.cge(smoothing=step),
    "by leaf": lambda step: dz.cge(smoothing={"a": step, "b": 1e-3}),
    "traced rge": lambda step: dz.rge(smoothing=step, num_directions=11),
}.items():
    grads = {}
    for devices in (1, 8):
        mesh = make_mesh(devices)

        def step(weights, x, smoothing, scale, mesh=mesh, make=make):
            vg = dz.value_and_grad(loss, dz.sharded(make(smoothing), mesh))
            return vg(weights, x, key=jax.random.key(0), scale=scale, square=True)[1]

        placed = replicate((weights, x, jnp.float32(1e-2), jnp.float32(2.0)), mesh)
        grads[devices] = flatten(jax.device_get(jax.jit(step)(*placed)))
    error = np.linalg.norm(grads[8] - grads[1]) / np.linalg.norm(grads[1])
    result[name] = {"(8, 1)": float(error)}
print(json.dumps(result))
"""


@long
def test_eight_devices_give_the_gradient_of_one():
    result = on_devices(8, EIGHT)
    assert result.pop("devices") == 8
    for name, errors in result.items():
        for axes, error in errors.items():
            # Subtracting two losses leaves their rounding, which the batch's split changes.
            allowed = 1e-6 if name != "none" and axes != "(2, 2)" else 1e-3
            assert error <= allowed, (name, errors)
