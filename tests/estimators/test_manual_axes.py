"""Estimates inside ``shard_map``: on two devices, in a process of its own."""

import numpy as np

from tests.marks import long
from tests.runs import on_devices

TWO = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import deepzero_jax as dz
from deepzero_jax.estimators import pass_tree

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
x = jnp.arange(4.0) + 1
own = lambda w: jnp.sum(w**2)
one = lambda w: jax.lax.psum(jnp.sum(w**3), "d")
mean = lambda w, x: jax.lax.pmean(jnp.mean(w * x), "d")
key = jax.random.key(0)

def outcome(call, *args):
    try:
        return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(jax.jit(call)(*args))]
    except ValueError as error:
        return str(error).splitlines()[0]

found = {}
ESTIMATORS = {
    "cge": dz.cge(), "none": dz.cge(smoothing=1e-2, reuse="none"), "central": dz.cge(central=True),
    "rge": dz.rge(num_directions=2000, distribution="rademacher"), "first_order": dz.first_order(),
}
for name, estimator in ESTIMATORS.items():
    for check in (True, False):
        def mapped(fun, in_specs, out_specs, with_key=False):
            vg = dz.value_and_grad(fun, estimator)
            call = lambda *args: vg(*args, key=key)[1]
            return jax.shard_map(
                call, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check)
        found[f"{name} {check}"] = {
            "own": outcome(mapped(own, P("d"), P("d")), x),
            "one": outcome(mapped(one, P("d"), P("d")), x),
            "data": outcome(mapped(mean, (P(), P("d")), P()), jnp.float32(2.0), x),
        }
vg = dz.value_and_grad(lambda w: jax.lax.psum(jnp.sum(w), "d"), dz.cge())
by_coordinates = jax.shard_map(
    lambda w, c: vg(w, coordinates=c)[1], mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
found["coordinates"] = outcome(by_coordinates, x, jnp.arange(4))
counts = jax.shard_map(
    lambda w, c: dz.value_and_grad(own, dz.cge(batch_size=1))(w, coordinates=c)[1],
    mesh=mesh, in_specs=P("d"), out_specs=P("d"))
found["counts"] = outcome(counts, x, jnp.array([0, 1, 1, 2]))
# Passes of several leaves that meet, inside of shard_map and shared out by dz.sharded.
layers = [jnp.eye(4) * (1 + n / 10) for n in range(5)]
def deep(layers, x):
    for layer in layers:
        x = jnp.tanh(x @ layer)
    return jnp.sum(x)
images = jnp.ones((2, 3, 4)) * jnp.array([0.1, 0.4])[:, None, None]
exact = jax.vmap(jax.grad(deep), (None, 0))(layers, images)
vg = dz.value_and_grad(deep, dz.cge(smoothing=1e-4))
each = lambda layers, images: jax.tree.map(lambda g: g[None], vg(layers, images[0])[1])
for check in (True, False):
    call = jax.shard_map(
        each, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"), check_vma=check)
    found[f"deep {check}"] = [outcome(call, layers, images), outcome(lambda: exact)]
# With landings, see estimators/pass_tree.py.
pass_tree._MOST_NESTED, pass_tree._MOST_ZEROS = 2, 1.0
shared = dz.sharded(dz.cge(smoothing=1e-4), dz.sharding.make_mesh())
vg = dz.value_and_grad(deep, shared)
call = lambda layers, images: vg(layers, images[0])[1]
found["deep sharded"] = [
    outcome(call, layers, images), outcome(lambda: [leaf[0] for leaf in exact])]
print(json.dumps(found))
"""


@long
def test_devices_have_problems_of_their_own_and_shards_of_one_are_refused():
    found = on_devices(2, TWO)
    near = lambda got, expected, tolerance: all(
        abs(a - b) <= tolerance * abs(b) for a, b in zip(got, expected, strict=True)
    )
    # Random directions see their own noise, ±1 of the other coordinate.
    loose = lambda name: 0.3 if name == "rge" else 0.02
    assert found.pop("counts")[0][0] > 0  # a device with one coordinate, one with two
    assert "over which coordinates differ" in found.pop("coordinates")
    for case in ("deep True", "deep False", "deep sharded"):
        asked, exact = found.pop(case)
        assert isinstance(asked, list), asked
        np.testing.assert_allclose(asked, exact, rtol=1e-3, atol=1e-4)
    for case, outcomes in found.items():
        name, checked = case.split()
        assert near(outcomes["own"][0], [2, 4, 6, 8], loose(name)), case
        if name == "first_order":
            continue
        refused = "over which params differ" if checked == "True" else "check_vma"
        assert refused in outcomes["one"], case
        if checked == "True":
            assert near(outcomes["data"], [2.5], 0.02), case
        else:
            assert "check_vma" in outcomes["data"], case


BOXES = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import deepzero_jax as dz

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
x, key = jnp.linspace(0, 1, 24).reshape(8, 3), jax.random.key(0)
box = dz.black_box(lambda x: np.sin(x).sum(1), (), dtype="float64")
exact = dz.cge(smoothing=1e-4, central=True)

def mapped(fun, out_specs):
    return jax.jit(jax.shard_map(fun, mesh=mesh, in_specs=(P(), P("d")), out_specs=out_specs))

found = {}
for name, options in {"cge": {}, "colours": {"structure": np.ones((1, 3), bool)}}.items():
    f = dz.differentiable(box, exact, **options)
    whole = mapped(lambda w, x: jax.lax.psum(jnp.sum(f(w * x, key=key)), "d"), P())
    found[name] = (jax.grad(lambda x: whole(jnp.ones(3), x))(x) / jnp.cos(x)).tolist()
loss = lambda w, x: jnp.mean(box(w * x))
each = mapped(lambda w, x: dz.value_and_grad(loss, exact)(w, x)[1][None], P("d"))(jnp.ones(3), x)
wanted = jnp.mean(x * jnp.cos(x), axis=0)
found["parameters"] = (jnp.mean(each, axis=0) / wanted).tolist()
print(json.dumps(found))
"""


def test_answers_of_a_box_vary_as_their_inputs_do():
    for name, ratios in on_devices(2, BOXES).items():
        np.testing.assert_allclose(ratios, np.ones_like(ratios), rtol=1e-4, err_msg=name)


LOOPS = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
import deepzero_jax as dz

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
box = dz.black_box(lambda x: np.sin(x).sum(1), (), dtype="float64")
twin = lambda x: jnp.sin(x).sum(1)
losses = lambda ask: {
    "scan": lambda w, x: lax.scan(
        lambda c, v: (jnp.tanh(c + v * w), c), x[0] * w, x)[1],
    "while": lambda w, x: lax.while_loop(lambda y: jnp.sum(y) < 9.0, lambda y: y + x * w, x * w),
    "cond": lambda w, x: lax.cond(jnp.sum(x * w) > 3.0, jnp.exp, jnp.sin, x * w),
    "box in a while": lambda w, x: lax.while_loop(
        lambda y: jnp.sum(y) < 9.0, lambda y: y + jnp.exp(ask(y))[:, None] * w, x * w),
    "box in a cond": lambda w, x: lax.cond(
        jnp.sum(x * w) > 3.0, lambda y: ask(y), lambda y: ask(2 * y), x * w),
}
x, w = jnp.linspace(0.1, 1, 24).reshape(8, 3), jnp.array([0.5, 0.8, 1.1])
found = {}
for name in losses(twin):
    loss = lambda w, x: jnp.mean(losses(box)[name](w, x))
    each = jax.shard_map(
        lambda w, x: dz.value_and_grad(loss, dz.cge(smoothing=1e-5))(w, x)[1][None],
        mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
    got = np.asarray(jax.block_until_ready(jax.jit(each)(w, x)))
    exact = lambda w, x: jnp.mean(losses(twin)[name](w, x))
    found[name] = got.tolist(), [jax.jacfwd(exact)(w, part).tolist() for part in (x[:4], x[4:])]
print(json.dumps(found))
"""


@long
def test_loops_and_branches_inside_of_shard_map():
    for name, (got, exact) in on_devices(2, LOOPS).items():
        np.testing.assert_allclose(got, exact, rtol=1e-3, atol=1e-4, err_msg=name)


DATA_PARALLEL = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
import deepzero_jax as dz

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
w = lambda *shape: 0.5 * jnp.cos(jnp.arange(np.prod(shape)) ** 1.5).reshape(shape)
spec = ("NHWC", "HWIO", "NHWC")
conv = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=spec)
rows = lambda x: x.reshape(len(x), -1)[:, :6]
def normed(h):
    mean = lax.pmean(jnp.mean(h, (0, 1, 2)), "d")
    return (h - mean) * lax.rsqrt(lax.pmean(jnp.mean((h - mean) ** 2, (0, 1, 2)), "d") + 1e-3)
def turn(carry, _):
    h, k = carry
    return (jnp.tanh(h @ k), 0.5 * k @ k), None
NETS = {
    "linear": (w(6), lambda v, x: rows(x) @ v),
    "mlp": ([w(6, 4), w(4), w(4)], lambda p, x: jnp.tanh(rows(x) @ p[0] + p[1]) @ p[2]),
    "conv": ([w(3, 3, 2, 3), w(3), w(3)],
        lambda p, x: jnp.mean(jnp.tanh(conv(x, p[0]) + p[1]), (1, 2)) @ p[2]),
    "norm over devices": ([w(3, 3, 2, 3), w(3)],
        lambda p, x: jnp.mean(jnp.tanh(normed(conv(x, p[0]))), (1, 2)) @ p[1]),
    "beside what is still": (w(6), lambda v, x: (
        jnp.stack([rows(x), v[0] * rows(x)], 1) @ v
        + jnp.roll(rows(x), 1).at[:, jnp.argmax(x[0, 0, 0])].set(v[1])[:, :2]
        + v[jnp.argmax(rows(x), 1)][:, None]).sum(1)),
    "loop": ([w(2, 2), w(2)],
        lambda p, x: lax.scan(turn, (x[:, 0, 0] + p[1], p[0]), None, length=3)[0][0].sum(1)),
    "branch": ([w(2), w(2)], lambda p, x: x[:, 0, 0, 0] * lax.cond(
        x[0, 0, 0, 0] > 0, lambda p: x[0, 0, 0, 1] * jnp.sum(p[0]),
        lambda p: x[1, 0, 0, 1] * jnp.sum(p[1]), p)),
}
x, key = jnp.sin(jnp.arange(4 * 6 * 6 * 2.0) ** 1.2).reshape(4, 6, 6, 2), jax.random.key(0)
cge, rge = dz.cge(smoothing=1e-6), dz.rge(num_directions=3, smoothing=1e-6)
found = {}
for name, (params, net) in NETS.items():
    own = lambda p, x: jnp.mean((net(p, x) - jnp.sin(jnp.sum(x, (1, 2, 3)))) ** 2)
    inside = lambda p, x: lax.pmean(own(p, x), "d")
    every = jax.vmap(own, (None, 0), axis_name="d")
    whole = lambda p: jnp.mean(every(p, x.reshape(2, 2, 6, 6, 2)))
    def both(p, x, estimator):
        slopes = lambda loss: dz.value_and_grad(loss, estimator)(p, x, key=key)[1]
        return lax.pmean(slopes(own), "d"), slopes(inside)
    wanted = {"cge": (cge, jax.grad(whole)(params))}
    if name in ("mlp", "conv", "branch"):
        wanted["rge"] = rge, dz.value_and_grad(whole, rge)(params, key=key)[1]
    for kind, (estimator, expected) in wanted.items():
        mapped = jax.shard_map(
            lambda p, x: both(p, x, estimator), mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
        slopes = (*jax.jit(mapped)(params, x), expected)
        slopes = jnp.stack([jnp.concatenate(list(map(jnp.ravel, jax.tree.leaves(one))))
                            for one in slopes])
        found[f"{name}, {kind}"] = (slopes / jnp.max(jnp.abs(slopes[-1]))).tolist()
print(json.dumps(found))
"""


def test_data_parallel_losses_have_the_slopes_of_the_whole():
    for name, (after, inside, wanted) in on_devices(2, DATA_PARALLEL).items():
        np.testing.assert_allclose(after, wanted, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(inside, wanted, atol=2e-5, err_msg=name)
