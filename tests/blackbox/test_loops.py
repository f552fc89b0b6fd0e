"""A box inside of loops and branches: right slopes, and nothing asked again."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.difference import base_values
from tests.blackbox.test_box import squares
from tests.marks import few, long

ROWS = np.random.default_rng(5).normal(size=(4, 3))


def turns(box, p):
    carry = lambda c, x: jnp.tanh(c + box(c * p["a"] * p["b"]))
    return jnp.sum(jax.lax.scan(lambda c, x: (carry(c, x), c[0, 0]), ROWS, ROWS)[0])


def turns_in_turns(box, p):
    inner = lambda c: jax.lax.scan(lambda c, x: (c + box(c * p["a"]) * p["b"], None), c, ROWS[:2])[
        0
    ]
    return jnp.sum(jax.lax.scan(lambda c, x: (jnp.tanh(inner(c)), None), ROWS, ROWS[:3])[0])


def chosen_turn(box, p):
    one = lambda c, x: jax.lax.cond(
        x[0] > 0, lambda: c + box(c * p["a"]), lambda: c - 2 * box(jnp.sin(c) * p["b"])
    )
    return jnp.sum(jax.lax.scan(lambda c, x: (jnp.tanh(one(c, x)), None), ROWS, ROWS)[0])


def until_it_settles(box, p):
    turn = lambda c: (c[0] + 1, 0.5 * jnp.tanh(c[1] + box(c[1] * p["a"]) * p["b"]))
    return jnp.sum(jax.lax.while_loop(lambda c: c[0] < 3, turn, (0, ROWS))[1])


def until_it_is_small(box, p):
    goes_on = lambda c: jnp.sum(c**2) * p["b"] > 0.02
    return jnp.sum(jax.lax.while_loop(goes_on, lambda c: 0.1 * box(c) * p["a"] + c / 4, ROWS))


def chosen_by_what_moves(box, p):
    first = lambda c: c + box(c * p["a"])
    second = lambda c: c - 2 * box(jnp.sin(c) * p["b"])
    return jnp.sum(jax.lax.cond(jnp.sum(p["a"]) > p["b"], first, second, ROWS))


LOOPS = {  # samples that one evaluation asks
    "map": (
        4,
        lambda box, p: jnp.sum(jax.lax.map(lambda r: box(r[None] * p["a"] + p["b"])[0], ROWS)),
    ),
    "scan": (16, turns),
    "scan in a scan": (24, turns_in_turns),
    "cond in a scan": (16, chosen_turn),
    "while": (12, until_it_settles),
    "while that moves": (12, until_it_is_small),
    "cond that moves": (4, chosen_by_what_moves),
}


@pytest.mark.parametrize("kept", few([None, 0], rest=long), ids=["all kept", "answers kept"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_pass_through_a_loop_asks_nothing_again(name, kept, monkeypatch, x64):
    if kept is not None:
        monkeypatch.setattr(base_values, "KEPT_BYTES", kept)
    samples, fun = LOOPS[name]
    params = {"a": jnp.ones(3), "b": jnp.array(0.5)}
    twin = lambda x: jnp.sum(x**2, axis=-1, keepdims=True)
    box = dz.black_box(squares, (1,), dtype="float64")
    estimator = dz.cge(smoothing=1e-6, central=True)
    _, grads = jax.jit(dz.value_and_grad(partial(fun, box), estimator))(params)
    assert box.num_samples <= samples * dz.num_queries(estimator, params)
    if "cond" not in name:  # where the parameter of the other branch moves nothing
        assert box.num_samples == samples * dz.num_queries(estimator, params)
    exact = jax.jacfwd(partial(fun, twin))(params)
    for path in params:
        np.testing.assert_allclose(grads[path], exact[path], rtol=1e-7, atol=1e-9)
    _, delta = dz.difference(partial(fun, box), (params,), (jax.tree.map(jnp.ones_like, params),))
    moved = fun(twin, jax.tree.map(lambda p: p + 1, params)) - fun(twin, params)
    np.testing.assert_allclose(delta, moved, rtol=1e-9, atol=1e-13)


LOOPS_32 = {name: LOOPS[name] for name in ("while", "while that moves", "cond that moves")}


@pytest.fixture
def rows(monkeypatch):
    """In float32: JAX keeps the type of an array that it has once seen in float64."""
    monkeypatch.setitem(globals(), "ROWS", ROWS.astype(np.float32))
    return ROWS


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("batch_size", ["auto", 1])
@pytest.mark.parametrize("name", LOOPS_32)
def test_answers_in_float64_are_subtracted_in_float64_where_jax_has_float32(name, batch_size):
    samples, fun = LOOPS_32[name]
    fun = jax.jit(fun, static_argnums=0)
    params = {"a": jnp.ones(3), "b": jnp.array(0.5)}
    twin = lambda x: jnp.sum(x**2, axis=-1, keepdims=True)
    box = dz.black_box(squares, (1,), dtype="float64")
    estimator = dz.cge(smoothing=1e-5, batch_size=batch_size)
    _, grads = dz.value_and_grad(partial(fun, box), estimator)(params)
    assert box.num_samples <= samples * dz.num_queries(estimator, params)
    exact = jax.jacfwd(partial(fun, twin))(params)
    for path in params:
        np.testing.assert_allclose(grads[path], exact[path], rtol=2e-4, atol=1e-4)


def test_a_step_that_changes_the_branch_asks_that_branch_too(rows):
    def fun(p):
        return jax.lax.cond(p["a"] > 1, lambda: box(rows * p["a"]), lambda: box(rows * p["b"]))

    box = dz.black_box(squares, (1,), dtype="float64")
    params = {"a": jnp.array(1.0), "b": jnp.array(0.5)}
    value, grads = dz.value_and_grad(lambda p: jnp.sum(fun(p)), dz.cge(smoothing=0.5))(params)
    total = np.sum(rows**2)
    np.testing.assert_allclose(value, 0.25 * total, rtol=1e-6)
    np.testing.assert_allclose(grads["a"], (1.5**2 - 0.25) * total / 0.5, rtol=1e-5)
    np.testing.assert_allclose(grads["b"], (1.0 - 0.25) * total / 0.5, rtol=1e-5)
    assert box.num_samples == 4 * 3  # the branch of the base does not depend on "a"
