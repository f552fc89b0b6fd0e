"""Loops and branches whose course depends on what moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.difference import propagate, trace
from deepzero_jax.difference.base_values import base_values

X = np.abs(np.random.default_rng(0).normal(size=5)) + 0.3


def newton(x):
    far = lambda c: (jnp.max(jnp.abs(c[1] ** 2 - x)) > 0.02) & (c[0] < 20)
    return lax.while_loop(far, lambda c: (c[0] + 1, (c[1] + x / c[1]) / 2), (0, x + 1.0))[1]


def until_a_flag(x):
    turn = lambda c: (jnp.sum(c[1] ** 2) < 0.7, jnp.sin(c[1]), c[2] + 1)
    return lax.while_loop(lambda c: ~c[0], turn, (False, x, 0))


def counted(x):
    turn = lambda c: (c[0] + 1, jnp.tanh(c[1] + x * c[0]))
    return lax.while_loop(lambda c: c[0] < jnp.sum(x > 0.5) + 2, turn, (0, x))


def flags_in_a_scan(x):
    turn = lambda c, v: ((c[1] > 0.5, jnp.where(c[0], jnp.tanh(c[1] + v), c[1] * v)), c)
    return lax.scan(turn, (True, x[0]), x)


def halved(v):
    """Turns that depend on v, and a number of them."""
    turn = lambda c: (c[0] + 1, jnp.sin(c[1]) * 0.7)
    return lax.while_loop(lambda c: c[1] > 0.2, turn, (0, v))


FUNCTIONS = {
    "newton": newton,
    "until a flag": until_a_flag,
    "counted": counted,
    "flags in a scan": flags_in_a_scan,
    "cond": lambda x: lax.cond(x[0] > 0.1, jnp.exp, jnp.sin, x),
    "switch": lambda x: lax.switch(jnp.argmax(x), [jnp.exp, jnp.sin, jnp.cos, jnp.tanh], x),
    "cond in a while": lambda x: lax.while_loop(
        lambda y: jnp.sum(y) > 0.1,
        lambda y: lax.cond(y[1] > 0.2, lambda v: jnp.tanh(v) / 2, lambda v: v / 3, y),
        x,
    ),
    "rows with a test each": lambda x: jax.vmap(newton)(jnp.stack([x, 3 * x, 9 * x])),
    "rows of rows with a test each": lambda x: jax.vmap(jax.vmap(halved))(jnp.outer(x, 1 + x)),
    "while in a while": lambda x: lax.while_loop(
        lambda y: jnp.sum(y) > 0.5, lambda y: newton(y) / 5, x
    ),
}


def difference_of(new, old):
    return np.asarray(new, np.float64) - np.asarray(old, np.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_small_step_does_not_cancel_in_float32(name):
    fun = FUNCTIONS[name]
    x, delta = jnp.asarray(X, jnp.float32), jnp.full(5, 1e-5, jnp.float32)
    _, got = jax.jit(lambda d: dz.difference(fun, (x,), (d,)))(delta)
    with jax.enable_x64(True):
        x, delta = (jnp.asarray(np.asarray(a), jnp.float64) for a in (x, delta))
        exact = jax.tree.map(difference_of, fun(x + delta), fun(x))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if np.any(b):
            assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1e-6, 0.25])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_course_is_subtracted(name, size):
    fun, x = FUNCTIONS[name], jnp.asarray(X)
    moves = size * jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(8, 5)))
    one = jax.jit(lambda move: dz.difference(fun, (x,), (move,))[1])
    got, each = jax.jit(jax.vmap(one))(moves), list(map(one, moves))
    far = jax.vmap(lambda move: fun(x + move))(moves)
    base = fun(x)
    want = jax.tree.map(difference_of, far, base)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if np.issubdtype(a.dtype, np.inexact):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-14)
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-14), got, stacked)


def test_the_courses_of_these_tests_do_differ():
    x = jnp.asarray(X)
    moves = 0.25 * jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(8, 5)))
    turns = [int(until_a_flag(x + move)[2]) for move in [0 * x, *moves]]
    assert len(set(turns)) > 1
    assert len({int(jnp.argmax(x + move)) for move in [0 * x, *moves]}) > 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_coarse_types_go_on_in_float32(dtype):
    x = jnp.asarray(X, dtype)
    for fun in (newton, FUNCTIONS["cond"], FUNCTIONS["cond in a while"]):
        _, delta = dz.difference(fun, (x,), (jnp.full(5, 1e-5, jnp.float32),))
        slope = jax.jvp(fun, (jnp.asarray(x, jnp.float32),), (jnp.ones(5),))[1]
        np.testing.assert_allclose(jnp.float32(delta) / 1e-5, slope, rtol=0.05, atol=0.01)


def test_infinities_in_a_loop_that_goes_on_count_as_the_evaluations_do():
    def fun(x):  # log 0 at the base, and a turn more where x moves
        turn = lambda y: jnp.maximum(jnp.log(y), -3.0) + 4.0
        return lax.while_loop(lambda y: jnp.max(y) < 1.2, turn, x)

    for start in ([0.0, 1.0], [0.0, 0.1], [1.1, 0.0]):
        x, move = jnp.array(start), jnp.array([0.2, 0.15])
        _, delta = dz.difference(fun, (x,), (move,))
        np.testing.assert_allclose(delta, fun(x + move) - fun(x), rtol=1e-5)


def test_what_was_kept_of_each_turn_does_not_grow_with_a_loop_without_host():
    program, _ = trace(newton, jnp.asarray(X))
    values = base_values(program, [jnp.asarray(X)])
    assert not any(number < 0 for number in values)
    assert len(propagate(program, values, [jnp.full(5, 1e-3)])) == 1
