"""Where base values are infinite, complex, saturated or coarse, the difference is still right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.special import xlogy

import deepzero_jax as dz
from tests.conftest import AS_USERS
from tests.marks import few

# name: (function, x, step)
CASES = {
    "complex abs": (lambda w: jnp.sum(jnp.abs(jnp.fft.rfft(w))), np.arange(5.0), 0.1),
    "x log x at 0": (lambda p: xlogy(p, p), 0.0, 1e-3),
    "masked log": (lambda w: jnp.where(w > 0, jnp.log(w), 0), 0.0, 1e-3),
    "masked quotient": (lambda w: jnp.where(w == 0, 0, 1 / w), 0.0, 1e-3),
    "infinity replaced": (lambda w: jnp.nan_to_num(w / 0, posinf=5.0, nan=2.0), 0.0, 1e-3),
    "exp from far below": (jnp.exp, -110.0, 110.0),
    "max from minus infinity": (lambda w: jnp.maximum(-jnp.inf, w), 1.0, 0.1),
    "min from infinity": (lambda w: jnp.minimum(w, jnp.inf), 1.0, 0.1),
    "max of log": (lambda w: jnp.maximum(jnp.log(w), -5.0), 0.0, 0.1),
    "exp of log": (lambda w: jnp.exp(2 * jnp.log(w)), 0.0, 0.1),
    "exp of a sum of logs": (lambda w: jnp.exp(jnp.log(w) @ jnp.ones(2)), np.array([0, 2.0]), 0.1),
    "logsumexp of logs": (lambda w: jax.nn.logsumexp(jnp.log(w)), np.array([0, 2.0, 0]), 0.1),
    "masked softmax": (
        lambda w: jax.nn.softmax(jnp.where(np.array([1, 0, 1], bool), w * w, -jnp.inf)),
        np.array([1.0, 2.0, 3.0]),
        1e-3,
    ),
    "guarded norm": (
        lambda w: jnp.where(jnp.linalg.norm(w) > 0, w / jnp.linalg.norm(w), 0),
        np.zeros(3),
        1e-3,
    ),
    "log in a loop": (
        lambda w: lax.fori_loop(0, 3, lambda i, c: jnp.where(c > 0, jnp.log(c) + 1, 0.5), w),
        0.0,
        1e-3,
    ),
    "log in a carry": (
        lambda w: jnp.exp(
            lax.scan(lambda c, x: (c + jnp.log(w + x), c), 0.0, np.arange(3, dtype="f4"))[0]
        ),
        0.0,
        1e-3,
    ),
    "log in a branch": (
        lambda w: jnp.exp(lax.cond(True, jnp.log, jnp.sin, w)),
        0.0,
        1e-3,
    ),
    "tanh at 6": (jnp.tanh, 6.0, 1e-2),
    "tanh at 8.5": (jnp.tanh, 8.5, 1e-2),
    "tanh across": (jnp.tanh, -8.5, 16.0),
    "expm1 at -15": (jnp.expm1, -15.0, 1e-3),
    "erfc at 5": (lax.erfc, 5.0, 1e-3),
    "erfc from 5 by 1": (lax.erfc, 5.0, 1.0),
    "erf from 3 by 1": (lax.erf, 3.0, 1.0),
    "step down from an integer": (jnp.floor, 1.0, -1e-9),
    "choice at a tie": (lambda w: jnp.where(w > 1, 5.0, 2.0), 1.0, 1e-9),
    "continuous choice": (lambda w: jnp.where(w > 1, w * w, w), 1.0, 1e-6),
    "negative base of a power": (lambda w: jnp.power(w, 2.0), -110.0, 1e-3),
    "barrier of two": (lambda w: sum(lax.optimization_barrier((w, 2 * w))), 1.0, 1e-3),
    "barrier, one still": (lambda w: lax.optimization_barrier((w, 3.0))[0], 1.0, 1e-3),
    "infinite primal": (lambda w: jnp.exp(-w * w), np.inf, 0.1),
    "counter beside": (lambda w: lax.fori_loop(0, 3, lambda i, c: c * w + i, w), 1.5, 1e-6),
}


def expected(fun, x, step):
    with jax.enable_x64(True):
        x, step = (np.asarray(v, np.float64) for v in (x, step))
        return np.asarray(fun(jnp.asarray(x + step))) - np.asarray(fun(jnp.asarray(x)))


@pytest.mark.parametrize("name", CASES)
def test_the_difference_is_that_of_the_evaluations(name):
    fun, x, step = CASES[name]
    x = np.asarray(x, np.float32)
    step = np.full_like(x, step)
    _, got = dz.difference(fun, (x,), (step,))
    np.testing.assert_allclose(got, expected(fun, x, step), 1e-4, 1e-20)


@pytest.mark.parametrize("name", ["masked log", "exp of log", "log in a carry", "guarded norm"])
def test_under_jit_as_well(name):
    fun, x, step = CASES[name]
    x = np.asarray(x, np.float32)
    step = np.full_like(x, step)
    _, got = jax.jit(lambda x, d: dz.difference(fun, (x,), (d,)))(x, step)
    np.testing.assert_allclose(got, expected(fun, x, step), 1e-4, 1e-20)


COARSE = {
    "exp": jnp.exp,
    "no rule": jnp.cbrt,
    "sort": jnp.sort,
    "top_k": lambda w: lax.top_k(w, 2)[0],
    "product": lambda w: w * w,
    "dot": lambda w: w @ w,
    "loop": lambda w: lax.fori_loop(0, 3, lambda i, c: c * w, w),
    "while": lambda w: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * w), (0, w))[
        1
    ],
    "branch": lambda w: lax.cond(True, jnp.sin, jnp.cos, w),
    "scatter": lambda w: w.at[0].mul(w[1]),
    "scatter by a function": lambda w: w.at[0].apply(jnp.sin),
    "sign": lambda w: jnp.where(jnp.signbit(w - 2), w, 3 * w),
}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", COARSE)
def test_steps_below_the_grid_of_coarse_parameters_are_seen(name, dtype):
    fun, step = COARSE[name], 2.0**-15  # a 32nd of half precision's grid, and less of bfloat16's
    x = np.array([1.5, 1.25], np.float32)
    out, got = dz.difference(fun, (jnp.asarray(x, dtype),), (np.full(2, step, np.float32),))
    assert out.dtype == dtype
    assert got.dtype == (jnp.float32 if dtype == jnp.float16 else dtype)
    np.testing.assert_allclose(np.float32(got), expected(fun, x, np.full(2, step)), 2e-2)


AMONG = {
    "max": jnp.max,
    "min": jnp.min,
    "sort": jnp.sort,
    "top_k": lambda y: lax.top_k(y, 3)[0],
    "argsort": lambda y: y[jnp.argsort(y)],
    "abs": lambda y: jnp.sum(jnp.abs(y)),
    "max-pool": lambda y: lax.reduce_window(y, -jnp.inf, lax.max, (4,), (4,), "VALID"),
    "logsumexp": lambda y: jax.nn.logsumexp(jnp.log(jnp.abs(y))),
}


@pytest.mark.parametrize("computed", few(["in coarse numbers", "in float32"]))
@pytest.mark.parametrize("dtype", few([jnp.bfloat16, jnp.float16]))
@pytest.mark.parametrize("name", AMONG)
def test_one_of_several_coarse_numbers_is_the_same_wherever_it_is_read(name, dtype, computed):
    """XLA leaves out some of the roundings of a program, and so of one value in some places."""

    def fun(x):
        x = x.astype(jnp.float32 if computed == "in float32" else dtype)
        return AMONG[name]((jnp.tanh(x) * 1.7 + 0.2 * x * x).astype(dtype)).astype(jnp.float32)

    x, step = jnp.asarray(np.sin(1.0 + np.arange(24)), "f4"), jnp.full(24, 1e-4, "f4")
    compiled = jax.jit(lambda x, d: dz.difference(fun, (x,), (d,))[1])
    got = compiled.lower(x, step).compile(AS_USERS)(x, step)
    np.testing.assert_allclose(got, dz.difference(fun, (x,), (step,))[1], 1e-2, 1e-7)


def test_foreign_code_of_coarse_numbers_is_refused():
    fun = lambda x: jax.pure_callback(
        np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
    )
    x = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(TypeError, match="convert them to float32 before the call"):
        dz.difference(fun, (x,), (x,))
