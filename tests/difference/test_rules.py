import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.difference import RULES, ZERO, Channel, Point, dense, evaluate, propagate, trace
from deepzero_jax.difference.values import channel_of_point
from tests.marks import few

ELEMENTWISE = {
    "neg": (jnp.negative, -2, 2),
    "square": (jnp.square, -2, 2),
    "cube": (lambda x: x**3, -2, 2),
    "inverse cube": (lambda x: lax.integer_pow(x, -3), 0.5, 2),
    "exp": (jnp.exp, -3, 3),
    "exp2": (jnp.exp2, -3, 3),
    "expm1": (jnp.expm1, -3, 3),
    "log": (jnp.log, 0.5, 3),
    "log1p": (jnp.log1p, -0.5, 3),
    "sqrt": (jnp.sqrt, 0.2, 3),
    "rsqrt": (lax.rsqrt, 0.2, 3),
    "tanh": (jnp.tanh, -3, 3),
    "logistic": (jax.nn.sigmoid, -20, 20),
    "sin": (jnp.sin, -3, 3),
    "cos": (jnp.cos, -3, 3),
    "abs": (jnp.abs, -2, 2),
    "erf": (lax.erf, -2, 2),
    "erfc": (lax.erfc, -2, 2),
    "relu": (jax.nn.relu, -2, 2),
    "gelu": (functools.partial(jax.nn.gelu, approximate=False), -3, 3),
    "gelu tanh": (jax.nn.gelu, -3, 3),
    "softplus": (jax.nn.softplus, -3, 3),
    "silu": (jax.nn.silu, -3, 3),
    "elu": (jax.nn.elu, -3, 3),
    "pow": (lambda x: x**1.7, 0.5, 2),
    "clip": (lambda x: jnp.clip(x, -0.5, 0.5), -2, 2),
    "atan (no rule)": (jnp.arctan, -2, 2),
}
REDUCTIONS = {
    "sum": lambda x: jnp.sum(x, axis=(0, 1)),
    "mean": lambda x: jnp.mean(x, axis=1),
    "var": lambda x: jnp.var(x, axis=(0, 2)),
    "max": lambda x: jnp.max(x, axis=1),
    "min": lambda x: jnp.min(x, axis=(0, 2)),
    "prod (no rule)": lambda x: jnp.prod(x, axis=2),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "sort": lambda x: jnp.sort(x, axis=1),
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "log softmax": lambda x: jax.nn.log_softmax(x, axis=1),
    "logsumexp": lambda x: jax.nn.logsumexp(x, axis=(1, 2)),
}
STRUCTURE = {
    "reshape apart": lambda x: x.reshape(4, 3, 2, 5),
    "reshape together": lambda x: x.reshape(12, 10),
    "reshape the channel away": lambda x: x.reshape(-1, 2),
    "transpose": lambda x: x.transpose(2, 0, 1),
    "slice": lambda x: x[1:, ::2],
    "slice the channel": lambda x: x[..., 1:7:2],
    "index": lambda x: x[0],
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0))),
    "pad the channel": lambda x: jnp.pad(x, ((0, 0), (0, 0), (3, 2))),
    "reverse": lambda x: x[:, ::-1],
    "concatenate": lambda x: jnp.concatenate([x, 2 * x], axis=1),
    "stack": lambda x: jnp.stack([x, x * x]),
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (4, 2, 3, 10)),
    "take": lambda x: jnp.take(x, jnp.array([2, 0, 1]), axis=1),
    "select": lambda x: jnp.where(jnp.arange(10) < 4, x, x * x),
    "choice that moves": lambda x: jnp.where(x > 0.1, x * x, -x),
    "update": lambda x: x.at[:, 1].set(x[:, 0]),
    "split": lambda x: jnp.split(x, 2, axis=0)[1] * 3,
    "dynamic slice": lambda x: lax.dynamic_slice(x, (1, 0, 2), (2, 3, 4)),
    "scatter (no rule)": lambda x: x.at[jnp.array([0, 2])].add(x[:2]),
    "matrix product": lambda x: x @ jnp.linspace(-1, 1, 30).reshape(10, 3),
    "from the left": lambda x: jnp.einsum("abc,ad->dbc", x, jnp.linspace(-1, 1, 8).reshape(4, 2)),
    "batched": lambda x: jnp.einsum("abc,adc->abd", x, x * x),
    "channels batched": lambda x: jnp.einsum("abc,dc->cabd", x, jnp.ones((2, 10))),
    "max-pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 1, 1), (2, 1, 1), "VALID"),
    "min-pool": lambda x: lax.reduce_window(
        x, jnp.inf, lax.min, (2, 1, 1), (2, 2, 1), ((1, 0), (0, 1), (0, 0))
    ),
    "overlapping pool": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (2, 2, 1), (1, 1, 1), "VALID"
    ),
    "pool over channels": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, 2), (1, 1, 2), "VALID"
    ),
    "average pool": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1, 1), (2, 1, 1), "VALID"),
}


def largest(x):
    return jnp.argmax(x[:, 0, 0])


# What is read or written at places that themselves move.
PLACES = {
    "take at places": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    "take at places, filled": lambda x: x.at[3 + largest(x) + jnp.arange(3)].get(
        mode="fill", fill_value=2.0
    ),
    "slice at a place": lambda x: lax.dynamic_slice(x, (largest(x), 0, 2), (1, 3, 4)),
    "update at a place": lambda x: lax.dynamic_update_index_in_dim(x, x[:1] * 2, largest(x), 0),
    "set at places": lambda x: x.at[largest(x)].set(jnp.sin(x[1])),
    "add at places": lambda x: x.at[largest(x)].add(jnp.sin(x[1])),
    "take away at places": lambda x: x.at[largest(x)].subtract(x[1]),
    "still numbers at a place": lambda x: x[0] * jnp.linspace(1, 3, 4)[largest(x)],
}


def turn(body, x):
    return lax.fori_loop(0, 3, lambda i, v: body(v), x)


CONTROL = {
    "scan": lambda x: lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), x[0], x)[1],
    "scan backwards": lambda x: lax.scan(lambda c, v: (c * v, c), x[0], x, reverse=True)[0],
    "scan with a counter": lambda x: lax.scan(
        lambda c, v: ((c[0] + 1, c[1] * v + c[0]), c[1]), (0, x[0]), x
    )[1],
    "fori": lambda x: turn(lambda v: jnp.sin(v) + 0.1 * v, x),
    "while that moves": lambda x: lax.while_loop(
        lambda v: jnp.sum(v) < 100.0, lambda v: v * 1.5 + 1.0, x
    ),
    "cond": lambda x: lax.cond(jnp.array(True), jnp.exp, jnp.sin, x),
    "cond that moves": lambda x: lax.cond(x[0, 0, 0] > 0.3, jnp.exp, jnp.sin, x),
    "switch": lambda x: lax.switch(jnp.int32(1), [jnp.exp, lambda v: v * v, jnp.sin], x),
    "remat": jax.checkpoint(lambda x: jnp.exp(jnp.sin(x))),
    "jit": jax.jit(lambda x: jnp.exp(jnp.sin(x))),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": None,
    "callback": lambda x: jax.pure_callback(
        lambda v: np.sin(v), jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
    ),
    "argmax": lambda x: x * (1.0 + jnp.argmax(x, axis=1, keepdims=True)),
    "round": lambda x: jnp.floor(3 * x) + x,
    "integers": lambda x: (x > 0).astype(jnp.int32) * x,
}


@jax.custom_vjp
def doubled(x):
    return 2 * x * x


doubled.defvjp(lambda x: (2 * x * x, x), lambda x, g: (g,))
CONTROL["custom_vjp"] = doubled
FUNCTIONS = {**REDUCTIONS, **STRUCTURE, **PLACES, **CONTROL}


def block(seed=0, dtype=None):
    return jax.random.normal(jax.random.key(seed), (4, 3, 10), dtype)


def assert_difference(fun, x, delta, rtol=1e-9, atol=1e-12):
    out, got = dz.difference(fun, (x,), (delta,))
    expected = jax.tree.map(lambda a, b: a - b, fun(x + delta), fun(x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-13), out, fun(x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), got, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-8])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_differences_are_exact(name, size):
    fun, low, high = ELEMENTWISE[name]
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(keys[0], (500,), minval=low, maxval=high)
    moved = jnp.clip(x + size * jax.random.normal(keys[1], (500,)), low, high)
    assert_difference(fun, x, moved - x, rtol=1e-8, atol=3e-15)


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if "no rule" not in name])
def test_elementwise_differences_do_not_cancel_in_float32(name):
    fun, low, high = ELEMENTWISE[name]
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(keys[0], (500,), minval=low + 0.1, maxval=high - 0.1)
    delta = 1e-5 * jax.random.normal(keys[1], (500,))
    _, got = dz.difference(fun, (x,), (delta,))
    subtracted = np.asarray(fun(x + delta) - fun(x))
    with jax.enable_x64(True):
        exact_x, exact_delta = np.asarray(x, np.float64), np.asarray(delta, np.float64)
        expected = np.asarray(fun(exact_x + exact_delta) - fun(exact_x))
    error, plain = (
        np.linalg.norm(np.asarray(values, np.float64) - expected) / np.linalg.norm(expected)
        for values in (got, subtracted)
    )
    assert error < 5e-6
    assert plain > 100 * error


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [0.5, 1e-6])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_arrays_are_exact(name, size):
    atol = 1e-13 + 1e-9 * size
    assert_difference(FUNCTIONS[name], block(), size * block(1), rtol=1e-7, atol=atol)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_values_at_places_that_may_move_do_not_cancel_in_float32(name, elsewhere):
    fun = PLACES[name]
    x, delta = block().at[2, 0, 0].set(2.0), (1e-5 * block(1)).at[2, 0, 0].set(-3e-5)
    if elsewhere:  # another one is so near that the step makes it the largest
        x, delta = x.at[0, 0, 0].set(2.0 - 1e-5), delta.at[0, 0, 0].set(0)
    _, got = dz.difference(fun, (x,), (delta,))
    with jax.enable_x64(True):
        x, delta = jnp.asarray(x, float), jnp.asarray(delta, float)
        expected = fun(x + delta) - fun(x)
        assert elsewhere == bool(largest(x + delta) != largest(x))
    np.testing.assert_allclose(got, expected, 1e-5, 1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis", few([1, 2, 0], 2))
@pytest.mark.parametrize("name", {**FUNCTIONS, **ELEMENTWISE})
def test_channels_and_points_mean_what_their_dense_form_means(name, axis):
    fun = FUNCTIONS.get(name) or ELEMENTWISE[name][0]
    x = jnp.abs(block()) + 0.3
    point = Point(jnp.asarray(0.2), (jnp.int32(1), jnp.int32(2), jnp.int32(7)))
    channel = Channel(jnp.take(0.1 * block(1), 1, axis=axis), axis, jnp.asarray(1, jnp.int32))
    program, _ = trace(fun, x)
    values = evaluate(program, [x])
    outs = [values[o] for o in program.outputs]
    for delta in (point, channel, channel_of_point(point, x.shape, axis)):
        got = propagate(program, values, [delta])
        expected = propagate(program, values, [dense(delta, x)])
        for a, b, out in zip(got, expected, outs, strict=True):
            np.testing.assert_allclose(dense(a, out), dense(b, out), 1e-9, 1e-13)


KEPT = {
    "reshape together": (2, "reshape together"),
    "transpose": (2, "transpose"),
    "slice": (2, "slice"),
    "pad": (2, "pad"),
    "pad the channel": (2, "pad the channel"),
    "mean": (2, "mean"),
    "max": (2, "max"),
    "max-pool": (2, "max-pool"),
    "min-pool": (2, "min-pool"),
    "select": (2, "select"),
}


@pytest.mark.parametrize("name", KEPT)
def test_channels_stay_channels(name):
    axis, function = KEPT[name]
    x = block()
    program, _ = trace(FUNCTIONS[function], x)
    channel = Channel(jnp.take(x, 1, axis=axis), axis, jnp.int32(1))
    assert isinstance(propagate(program, evaluate(program, [x]), [channel])[0], Channel)


def test_what_does_not_move_is_not_visited(monkeypatch):
    visited = []
    for name in ("sin", "exp"):
        function = functools.partial(_visit, visited, name, RULES[name].function)
        monkeypatch.setitem(RULES, name, dataclasses.replace(RULES[name], function=function))
    fun = lambda a, b: jnp.sin(a) * jnp.exp(b)
    program, _ = trace(fun, 1.0, 2.0)
    propagate(program, evaluate(program, [1.0, 2.0]), [ZERO, jnp.asarray(0.1)])
    assert set(visited) == {"exp"}


def _visit(visited, name, function, bases, deltas, output, **params):
    visited.append(name)
    return function(bases, deltas, output, **params)


CONVOLUTIONS = {
    "plain": {},
    "stride": {"window_strides": (2, 2)},
    "no padding": {"padding": "VALID"},
    "uneven padding": {"padding": ((2, 0), (0, 1))},
    "dilated kernel": {"rhs_dilation": (2, 1)},
    "dilated image": {"lhs_dilation": (2, 2), "padding": ((1, 1), (0, 2))},
    "grouped": {"feature_group_count": 2},
    "depthwise": {"feature_group_count": 4},
    "channels first": {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    "odd layout": {"dimension_numbers": ("CHWN", "IHWO", "HWNC")},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", few(CONVOLUTIONS, 6))
def test_convolutions(name):
    options = {"window_strides": (1, 1), "padding": "SAME", **CONVOLUTIONS[name]}
    numbers = options.pop("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    groups = options.get("feature_group_count", 1)
    image_sizes = {"N": 2, "H": 6, "W": 5, "C": 4}
    kernel_sizes = {"H": 3, "W": 3, "I": 4 // groups, "O": 4}
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], [image_sizes[c] for c in numbers[0]])
    w = jax.random.normal(keys[1], [kernel_sizes[c] for c in numbers[1]])
    fun = lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)
    program, _ = trace(fun, x, w)
    values = evaluate(program, [x, w])
    out = values[program.outputs[0]]

    def deltas_of(value, key):
        yield ZERO
        yield 0.3 * jax.random.normal(key, value.shape)
        at = [jnp.int32(size - 1) for size in value.shape]
        yield Point(jnp.asarray(0.7), tuple(at))
        for axis in range(value.ndim):
            rest = [s for a, s in enumerate(value.shape) if a != axis]
            yield Channel(jax.random.normal(key, rest), axis, jnp.int32(0))

    for d_x in deltas_of(x, keys[2]):
        for d_w in deltas_of(w, keys[3]):
            got = dense(propagate(program, values, [d_x, d_w])[0], out)
            expected = fun(x + dense(d_x, x), w + dense(d_w, w)) - out
            np.testing.assert_allclose(got, expected, 1e-9, 1e-11)
