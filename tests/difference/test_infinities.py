"""Infinities that stay what they are whatever moves: masks, padding, starts of a recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from tests.marks import few, long
from tests.problems import relative_error

MASK = jnp.array([True, True, True, False])
WEIGHTS = np.arange(1, 5.0)
LOWEST = -jnp.inf


def masked(w, low=LOWEST):
    return jnp.where(MASK, w, low)


def entropy(w):
    p = jax.nn.softmax(lax.top_k(masked(w), 4)[0])
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0))


def shifted(carry, fill):
    return jnp.concatenate([jnp.array([fill], carry.dtype), carry[:-1]])


def shortest_path(w):
    step = lambda cost, e: (jnp.minimum(cost, shifted(cost, jnp.inf)) + e * w**2, None)
    start = jnp.array([0.0, jnp.inf, jnp.inf, jnp.inf], w.dtype)
    return lax.scan(step, start, jnp.arange(1, 5, dtype=w.dtype))[0][3]


def alignments(w):
    """As CTC adds them up."""
    step = lambda score, e: (jnp.logaddexp(score, shifted(score, LOWEST)) + e * w, None)
    start = jnp.array([0.0, LOWEST, LOWEST, LOWEST], w.dtype)
    return jax.nn.logsumexp(lax.scan(step, start, jnp.arange(1, 4, dtype=w.dtype))[0])


def in_a_branch(w):
    high = lambda w: jnp.sum(jnp.exp(jnp.sort(masked(w))) * WEIGHTS)
    return lax.cond(w[0] > 0, high, lambda w: jnp.sum(w), w)


def windows(w, low=LOWEST, padding=((2, 2),)):
    return jnp.sum(jnp.exp(lax.reduce_window(w, low, lax.max, (2,), (1,), padding)))


def of_a_mask_of_numbers(w):
    return jnp.sum(jnp.abs(jax.nn.softmax(w[0] * jnp.log(MASK.astype(w.dtype)) + w)) * WEIGHTS)


LOSSES = {
    "entropy": entropy,
    "shortest path": shortest_path,
    "in a branch": in_a_branch,
    "padded windows": windows,
    "padded twice": lambda w: windows(jnp.pad(w, 2, constant_values=LOWEST), padding="VALID"),
    "softplus": lambda w: jnp.sum(jax.nn.softplus(masked(w)) * WEIGHTS),
    "log_sigmoid": lambda w: jnp.sum(jnp.exp(jax.nn.log_sigmoid(masked(w))) * WEIGHTS),
    "sorted": lambda w: jnp.sum(jax.nn.softmax(jnp.sort(masked(w))) * WEIGHTS),
    "squared": lambda w: jnp.sum(jnp.exp(-(masked(w) ** 2)) * WEIGHTS),
    "absolute": lambda w: jnp.sum(jnp.exp(-jnp.abs(masked(w))) * WEIGHTS),
    "one over": lambda w: jnp.sum(WEIGHTS / (1 + jnp.abs(masked(w)))),
    "cummax": lambda w: jnp.sum(jnp.exp(lax.cummax(shifted(w, LOWEST)))),
    "logaddexp": lambda w: jnp.sum(jnp.logaddexp(w, LOWEST) * WEIGHTS),
    "an empty segment": lambda w: jnp.sum(
        jnp.exp(jax.ops.segment_max(w, jnp.array([0, 0, 2, 2]), 3))
    ),
    "overflow": lambda w: jnp.sum(jax.nn.softplus(masked(w, jnp.finfo(w.dtype).min) * 2) * WEIGHTS),
}
# Where autodiff itself gives NaN, central differences in float64 stand for it.
BY_DIFFERENCES = {
    "alignments": alignments,
    "a mask of numbers": of_a_mask_of_numbers,
    "scaled": lambda w: jnp.sum(jax.nn.softmax(masked(w) * (1 + w[1] ** 2)) * WEIGHTS),
}


def slopes_of(name, fun, w):
    if name not in BY_DIFFERENCES:
        return jax.grad(fun)(w)
    steps = 1e-6 * jnp.eye(len(w))
    return jnp.array([(fun(w + step) - fun(w - step)) / 2e-6 for step in steps])


@pytest.mark.parametrize("name", [*few(LOSSES, 6, long), *BY_DIFFERENCES])
def test_infinities_that_stay_have_no_difference(name, x64):
    fun, w = {**LOSSES, **BY_DIFFERENCES}[name], jnp.array([0.3, -1.0, 2.0, 0.5])
    exact = slopes_of(name, fun, w)
    assert np.all(np.isfinite(exact))
    for estimator in (dz.cge(smoothing=1e-7), dz.cge(smoothing=1e-5, central=True)):
        found = jax.jit(dz.value_and_grad(fun, estimator))(w)[1]
        assert relative_error(found, exact) < 1e-5
    direction = jnp.array([0.2, -0.7, 0.4, 1.1])
    _, moved = dz.difference(fun, (w,), (1e-7 * direction,))
    assert float(moved) == pytest.approx(1e-7 * float(exact @ direction), rel=1e-5)


def test_infinities_that_stay_keep_small_steps_exact():
    w, fun = jnp.array([0.3, -1.0, 2.0, 0.5]), LOSSES["softplus"]
    found = dz.value_and_grad(fun, dz.cge(smoothing=1e-12))(w)[1]
    assert relative_error(found, jax.grad(fun)(w)) < 1e-6


GIVEN = {
    "softplus": jax.nn.softplus,
    "logaddexp": lambda x: jnp.logaddexp(x, 0.0),
    "log_sigmoid": lambda x: jax.nn.log_sigmoid(jnp.abs(x)),
    "exp of |x|": lambda x: jnp.exp(-jnp.abs(x)),
    "sqrt": lambda x: 1 / jnp.sqrt(jnp.abs(x)),
    "clip": lambda x: jnp.clip(x, -1, 1),
    "relu": jax.nn.relu,
    "softmax": lambda x: jax.nn.softmax(-jnp.abs(x)),
}


GIVEN_AT = [(name, -jnp.inf) for name in GIVEN]
GIVEN_AT += [(name, jnp.inf) for name in GIVEN if name not in ("softplus", "logaddexp", "relu")]


@pytest.mark.parametrize(("name", "low"), GIVEN_AT)
def test_an_infinity_that_is_an_argument_under_jit_moves_nothing(name, low, x64):
    """Nothing is known of it while tracing."""
    weights = jnp.array([0.9, -2.0, 0.5])
    loss = lambda w, bias: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * GIVEN[name](w + bias))
    bias = jnp.array([0.0, low, 0.0])
    slopes = jax.jit(dz.value_and_grad(loss, dz.cge(smoothing=1e-7)))(weights, bias)[1]
    finite = jax.grad(loss)(weights, bias)
    assert slopes[1] == 0
    np.testing.assert_allclose(slopes, finite, atol=1e-5)


MAXIMA = {
    "initial": lambda x: jnp.max(x, initial=0),
    "of a floor": lambda x: jnp.maximum(-150.0, jnp.max(x)),
    "of floors": lambda x: jnp.maximum(jnp.max(x, keepdims=True), jnp.array([-jnp.inf, 0.0])),
}


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("step", [1e-2, 170.0])
@pytest.mark.parametrize("name", MAXIMA)
def test_a_sum_below_a_floor_may_be_zero(name, step, central):
    """No term of it is one, so its logarithm may be infinite."""

    def loss(w):
        total = jnp.log(jnp.sum(jnp.exp(w - MAXIMA[name](w))))
        return jax.nn.sigmoid(total) + jnp.sum(w)

    w = jnp.array([-250.0, -300.0])
    own, subtracted = (
        dz.value_and_grad(loss, dz.cge(smoothing=step, central=central, reuse=reuse))(w)[1]
        for reuse in ("difference", "none")
    )
    np.testing.assert_allclose(own, subtracted, rtol=1e-2)


def test_a_maximum_with_the_lowest_of_all_is_the_maximum():
    """As ``jnp.max(..., initial=-jnp.inf)`` has it: no infinity is looked for."""

    def looks(largest):
        fun = lambda w: jnp.log(jnp.sum(jnp.exp(w - largest(w))))
        difference = lambda w: dz.difference(fun, (w,), (w,))
        return str(jax.make_jaxpr(difference)(jnp.ones(2))).count("is_finite")

    assert looks(lambda w: jnp.max(w, initial=-jnp.inf)) == looks(jnp.max)
    assert looks(lambda w: jnp.max(w, initial=0)) > looks(jnp.max)
