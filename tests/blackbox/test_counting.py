"""What is reported as queries is what a box was asked, over estimators, samplers and chunks."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

import deepzero_jax as dz
from deepzero_jax.blackbox import samples_asked
from deepzero_jax.estimators import slopes_dropped
from deepzero_jax.sampling import price_aware_sampler
from tests.blackbox.test_box import squares
from tests.conftest import ROOT
from tests.marks import few, long

BATCH = 3


def problem(*sizes):
    """A loss whose every parameter moves the inputs of a box: ``(fun, params, box)``."""
    params = {f"leaf{i}": jnp.linspace(0.5, 1.0, size) for i, size in enumerate(sizes)}
    box = dz.black_box(squares, (1,))
    data = jax.random.normal(jax.random.key(0), (BATCH, sum(sizes)))

    def fun(params):
        return jnp.mean(box(data * jnp.concatenate([jnp.ravel(p) for p in params.values()])))

    return fun, params, box


def asked(fun, params, box, estimator, coordinates=None, transform=jax.jit):
    before = box.num_samples
    vg = transform(dz.value_and_grad(fun, estimator))
    jax.block_until_ready(vg(params, key=jax.random.key(1), coordinates=coordinates))
    return box.num_samples - before


@pytest.mark.parametrize("reuse", ["difference", "none"])
@pytest.mark.parametrize("batch_size", ["auto", 64])
def test_price_aware_coordinates(reuse, batch_size):
    fun, params, box = problem(1000)
    sampler = price_aware_sampler(params, {"leaf0": 1.0}, budget=50.0)
    estimator = dz.cge(smoothing=1e-2, reuse=reuse, batch_size=batch_size)
    for step in range(2):
        chosen = sampler.sample(sampler.init(jax.random.key(2)), jnp.int32(step)).coordinates
        wanted = dz.num_queries(estimator, params, chosen)
        assert wanted == 51
        assert asked(fun, params, box, estimator, chosen) == wanted * BATCH


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_leaves_that_chunks_do_not_divide(transform):
    fun, params, box = problem(65, 10, 130)
    estimator = dz.cge(smoothing=1e-2, batch_size=64)
    assert asked(fun, params, box, estimator, transform=transform) == 206 * BATCH
    assert box.num_calls <= 1 + 2 + 1 + 4


def test_directions_that_chunks_do_not_divide():
    fun, params, box = problem(7)
    assert asked(fun, params, box, dz.rge(batch_size=100)) == 193 * BATCH
    assert box.num_calls == 3


ESTIMATORS = {
    "cge": lambda size: dz.cge(smoothing=1e-2, batch_size=size),
    "rge": lambda size: dz.rge(smoothing=1e-2, num_directions=13, batch_size=size),
    "cge none": lambda size: dz.cge(smoothing=1e-2, reuse="none", batch_size=size),
    "cge central": lambda size: dz.cge(smoothing=1e-2, central=True, batch_size=size),
    "rge central none": lambda size: dz.rge(
        smoothing=1e-2, num_directions=13, central=True, reuse="none", batch_size=size
    ),
}


def chosen_by(sampler, params, step):
    if sampler == "dense":
        return None
    if sampler == "pruned":
        return dz.sample_coordinates(jax.random.key(3), params, {"leaf0": 0.7, "leaf2": 0.2})
    made = price_aware_sampler(params, dict.fromkeys(params, 1.0), budget=20.0)
    return made.sample(made.init(jax.random.key(2)), jnp.int32(step)).coordinates


@pytest.mark.parametrize("name", few(ESTIMATORS, 3, long))
@pytest.mark.parametrize("batch_size", few([7, "auto"]))
@pytest.mark.parametrize("kind", ["dense", "pruned", "price_aware"])
def test_queries_are_what_the_box_was_asked(name, batch_size, kind):
    fun, params, box = problem(29, 1, 17)
    estimator = ESTIMATORS[name](batch_size)
    coordinates = chosen_by(kind, params, 0)
    wanted = dz.num_queries(estimator, params, coordinates) * BATCH
    assert asked(fun, params, box, estimator, coordinates) == wanted


@pytest.mark.parametrize("name", ["cge", "rge"])
def test_chunks_do_not_change_the_numbers(name):
    fun, params, _ = problem(29, 1, 17)
    grads = [
        dz.value_and_grad(fun, ESTIMATORS[name](size))(params, key=jax.random.key(1))[1]
        for size in (1, 7, 64)
    ]
    for other in grads[1:]:
        for path in params:
            np.testing.assert_allclose(other[path], grads[0][path], rtol=1e-4, atol=1e-5)


def test_vmap_over_parameters_asks_for_each_and_no_padding():
    fun, params, box = problem(5, 6)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 3 * leaf]), params)
    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-2, batch_size=4))
    jax.block_until_ready(jax.jit(jax.vmap(vg))(many))
    assert box.num_samples == 3 * 12 * BATCH


def test_vmap_over_coordinates_of_one_number_asks_for_no_padding():
    fun, params, box = problem(5, 6)
    chosen = {"leaf0": jnp.array([[0, 1, 9], [2, 4, 9]]), "leaf1": jnp.array([[5], [3]])}
    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-2, batch_size=2))
    jax.block_until_ready(jax.jit(jax.vmap(lambda c: vg(params, coordinates=c)))(chosen))
    # The base does not depend on the set, so both share it.
    assert box.num_samples == (1 + 2 * 3) * BATCH


def test_an_empty_set_asks_the_base_alone():
    fun, params, box = problem(5, 1)
    padding = {"leaf0": jnp.full(3, 5), "leaf1": jnp.full(1, 1)}
    assert asked(fun, params, box, dz.cge(), padding) == BATCH


def test_a_sample_without_an_answer_leaves_its_coordinate_out():
    def host(x):
        if (np.abs(x[:, 2]) > 1.005).any():
            raise FloatingPointError("diverged")
        return squares(x)

    def dropped():
        jax.effects_barrier()
        return slopes_dropped() - before

    before = slopes_dropped()
    box = dz.black_box(host, (1,), retries=0, max_batch=1, on_failure="nan")
    fun = lambda w: jnp.mean(box(jnp.ones((BATCH, 4)) * w))
    value, grads = dz.value_and_grad(fun, dz.cge(smoothing=1e-2))(jnp.ones(4))
    assert float(value) == 4.0
    np.testing.assert_allclose(grads, [2, 2, 0, 2], atol=0.02)
    assert box.num_dropped == BATCH
    assert dropped() == 1
    rge = dz.rge(smoothing=1e-2, num_directions=8, distribution="rademacher")
    _, grads = jax.jit(dz.value_and_grad(fun, rge))(jnp.ones(4), key=jax.random.key(0))
    assert np.isfinite(grads).all()
    assert dropped() == box.num_dropped // BATCH > 1
    value, grads = dz.value_and_grad(fun, dz.cge())(jnp.full(4, 2.0))
    assert np.isnan(value)


MESHES = """
import deepzero_jax as dz, jax, jax.numpy as jnp, numpy as np, sys
from deepzero_jax.sharding import make_mesh
from tests.blackbox.test_counting import problem, ESTIMATORS, asked, chosen_by
for devices in ({devices},):
    for name in ("cge", "rge"):
        for kind in ("dense", "price_aware"):
            fun, params, box = problem(29, 1, 17)
            estimator = dz.sharded(ESTIMATORS[name](7), make_mesh(devices))
            coordinates = chosen_by(kind, params, 0)
            wanted = dz.num_queries(estimator, params, coordinates) * 3
            got = asked(fun, params, box, estimator, coordinates)
            print(devices, name, kind, wanted, got)
            assert wanted == got
"""


@long
@pytest.mark.parametrize("devices", few([3, 2]))
def test_devices_ask_no_padding(devices):
    found = subprocess.run(
        [sys.executable, "-c", MESHES.format(devices=devices)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr[-1500:]


def summed_slopes(box):
    one = dz.differentiable(box, dz.cge(smoothing=1e-2), samples=False)
    return jax.grad(lambda x: jnp.sum(jax.vmap(one)(x)))


COPIES = {
    "one at a time": (False, lambda box: jax.vmap(box), (8, 2)),
    "stacks": (True, lambda box: jax.vmap(box), (4, 2, 2)),
    "twice": (True, lambda box: jax.vmap(jax.vmap(box)), (3, 4, 2, 2)),
    "in a scan": (
        True,
        lambda box: lambda x: jax.lax.map(jax.vmap(box), x),
        (3, 4, 2, 2),
    ),
    "boundary": (False, summed_slopes, (8, 2)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_under_vmap_are_told_as_asked(name):
    batched, of, shape = COPIES[name]
    host = squares if batched else lambda x: np.sum(x**2, keepdims=True)
    box = dz.black_box(host, (1,), batched=batched)
    told = samples_asked(of(box), jnp.ones(shape))
    assert told == jnp.ones(shape)[..., 0].size * (1 if name != "boundary" else 3)
    jax.block_until_ready(of(box)(jnp.ones(shape)))
    assert box.num_samples == told


@pytest.mark.parametrize(
    "estimator",
    [dz.cge(), dz.cge(batch_size=8, central=True), dz.rge(num_directions=70), dz.first_order()],
    ids=["cge", "cge central", "rge", "first_order"],
)
def test_samples_of_an_estimate_are_told_as_asked(estimator):
    fun, params, box = problem(100, 1)
    if not estimator.needs_key and "smoothing" not in getattr(estimator, "settings", {}):
        f = dz.differentiable(box, dz.cge(smoothing=1e-2))
        data = jnp.ones((BATCH, 101))
        fun = lambda params: jnp.mean(f(data * jnp.concatenate(list(params.values()))))
    told = samples_asked(dz.value_and_grad(fun, estimator), params)
    assert box.num_samples == 0
    assert asked(fun, params, box, estimator) == told > 0


def test_devices_of_a_mesh_are_told_each():
    box = dz.black_box(squares, (1,))
    mesh, split = (
        AbstractMesh((4,), ("devices",), axis_types=(AxisType.Auto,)),
        PartitionSpec("devices"),
    )
    fun = jax.shard_map(box, mesh=mesh, in_specs=split, out_specs=split)
    assert samples_asked(fun, jnp.ones((8, 2))) == 8


@pytest.mark.parametrize("transform", few([jax.jit, lambda f: f]), ids=["jit", "eager"])
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("sizes", [(1,), (1, 3, 1)])
def test_leaves_of_one_number_are_asked_once(sizes, name, transform):
    # What does not depend on the index is done before the loop over indices.
    fun, params, box = problem(*sizes)
    estimator = ESTIMATORS[name](4)
    told = dz.num_queries(estimator, params) * BATCH
    assert asked(fun, params, box, estimator, transform=transform) == told


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_an_empty_set_of_one_number_asks_the_base_alone(transform):
    fun, params, box = problem(1, 1)
    padding = {"leaf0": jnp.full(1, 1), "leaf1": jnp.full(1, 1)}
    assert asked(fun, params, box, dz.cge(), padding, transform) == BATCH
