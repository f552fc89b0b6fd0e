"""Collectives: on two devices, in a process of its own, and in a ``vmap`` whose axis has a name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import deepzero_jax as dz
from deepzero_jax.difference import Channel, dense, evaluate, propagate, trace
from tests.runs import on_devices

COLLECTIVES = {
    "psum": lambda x: lax.psum(x, "d"),
    "pmean": lambda x: lax.pmean(x, "d"),
    "pmax": lambda x: lax.pmax(x, "d"),
    "pmin": lambda x: lax.pmin(x, "d"),
    "all_gather": lambda x: lax.all_gather(x, "d"),
    "all_gather tiled": lambda x: lax.all_gather(x, "d", axis=1, tiled=True),
    "ppermute": lambda x: lax.ppermute(x, "d", [(0, 1), (1, 0)]),
    "psum_scatter": lambda x: lax.psum_scatter(x, "d", scatter_dimension=1, tiled=True),
    "all_to_all": lambda x: lax.all_to_all(x, "d", 0, 1, tiled=True),
}
OF_DEVICES = {
    "all_gather whole": lambda x: lax.all_gather(x, "d", to="invarying"),
    "ppermute one": lambda x: lax.ppermute(x, "d", [(0, 1)]),
    "pmax of each": lambda x: lax.pmax(x, "d", axis_index_groups=[[0], [1]]),
}


def numbers():
    """Of two devices, some of them the same on both, and steps far below float32's grid."""
    x, step = np.float32(np.sin(np.arange(16.0))), np.float32(1e-9 * np.cos(np.arange(16.0)))
    x, step = x.reshape(2, 2, 4), step.reshape(2, 2, 4)
    x[1, 0] = x[0, 0]
    return x, step


def differences(collective, mapped):
    """By the engine in float32, and of two evaluations in float64."""
    x, step = numbers()
    subtract = lambda x, step: collective(x + step) - collective(x)
    found = mapped(lambda x, step: dz.difference(collective, (x,), (step,))[1])(x, step)
    return found, mapped(subtract)(np.float64(x), np.float64(step))


def on_two_devices():
    """``differences`` of every collective, with and without ``check_vma``."""
    mesh, found = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,)), {}
    for name, collective in {**COLLECTIVES, **OF_DEVICES}.items():
        for check in (True, False):

            def mapped(fun, check=check):
                own = lambda x, step: fun(x[0], step[0])[None]
                specs = {"in_specs": P("d"), "out_specs": P("d"), "check_vma": check}
                return jax.jit(jax.shard_map(own, mesh=mesh, **specs))

            both = differences(collective, mapped)
            found[f"{name} {check}"] = [np.asarray(one).tolist() for one in both]
    return found


PROGRAM = """
import json
import jax
jax.config.update("jax_enable_x64", True)
from tests.difference.test_collectives import on_two_devices
print(json.dumps(on_two_devices()))
"""


def test_collectives_of_devices_do_not_cancel():
    for name, (found, expected) in on_devices(2, PROGRAM).items():
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives_of_a_named_vmap_do_not_cancel(name, x64):
    collective = COLLECTIVES[name]
    rows = lambda fun: jax.vmap(fun, axis_name="d")
    found, expected = differences(collective, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-15)
    found = dz.difference(rows(collective), *((one,) for one in numbers()))[1]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-15)


def test_a_loss_that_a_named_vmap_averages_has_the_slopes_of_the_whole():
    x = jax.random.normal(jax.random.key(0), (2, 8, 6))
    loss = lambda v, x: jnp.mean((x @ v - jnp.sin(jnp.sum(x, -1))) ** 2)
    vg = dz.value_and_grad(lambda v, x: lax.pmean(loss(v, x), "d"), dz.cge(smoothing=1e-8))
    v = jnp.arange(6.0) / 6
    found = jax.vmap(lambda x: vg(v, x)[1], axis_name="d")(x)
    np.testing.assert_allclose(found, [jax.grad(loss)(v, x)] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "check", "survives"), [(P(), True, True), (P("d"), True, False), (P(), False, False)]
)
def test_a_channel_survives_a_sum_where_its_index_is_known_to_be_one(spec, check, survives):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    channels = []

    def run(x, index):
        program, _ = trace(lambda x: lax.psum(x, "d"), x)
        values = evaluate(program, [x])
        (found,) = propagate(program, values, [Channel(x[:, 0], 1, index[0])])
        channels.append(isinstance(found, Channel))
        return dense(found, values[program.outputs[0]])

    mapped = jax.shard_map(run, mesh=mesh, in_specs=(P("d"), spec), out_specs=P(), check_vma=check)
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(mapped(x, jnp.array([1])), [[0, 1, 0]] * 2)
    assert channels == [survives]
