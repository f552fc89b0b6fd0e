"""A box inside of loops and branches: right slopes, and nothing asked again."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.difference import base_values
from tests.blackbox.test_box import squares

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


LOOPS = {  # samples that one evaluation asks
    "map": (
        4,
        lambda box, p: jnp.sum(jax.lax.map(lambda r: box(r[None] * p["a"] + p["b"])[0], ROWS)),
    ),
    "scan": (16, turns),
    "scan in a scan": (24, turns_in_turns),
    "cond in a scan": (16, chosen_turn),
}


@pytest.mark.parametrize("kept", [None, 0], ids=["all kept", "answers kept"])
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
    exact = jax.grad(partial(fun, twin))(params)
    for path in params:
        np.testing.assert_allclose(grads[path], exact[path], rtol=1e-7, atol=1e-9)
    _, delta = dz.difference(partial(fun, box), (params,), (jax.tree.map(jnp.ones_like, params),))
    moved = fun(twin, jax.tree.map(lambda p: p + 1, params)) - fun(twin, params)
    np.testing.assert_allclose(delta, moved, rtol=1e-9, atol=1e-13)
