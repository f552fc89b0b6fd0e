"""Answers in the host's float64, where JAX has float32 alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz


def offset(x):
    assert x.dtype == np.float64
    return 1000 + np.sum(x**2, axis=-1)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_slopes_under_a_large_offset_keep_their_digits(central, batch_size):
    w = jnp.array([0.3, -0.7, 1.1, 0.05, 2.0])
    box = dz.black_box(offset, (), dtype="float64")
    fun = lambda w: jnp.mean(box(jnp.array([[1.0], [2.0]]) * w))
    estimator = dz.cge(smoothing=1e-4, central=central, batch_size=batch_size)
    value, grads = jax.jit(dz.value_and_grad(fun, estimator))(w)
    assert grads.dtype == jnp.float32
    bias = 0 if central else 2.5e-4
    np.testing.assert_allclose(grads, 5 * w + bias, rtol=2e-5, atol=2e-6)
    assert float(value) == pytest.approx(1000 + 2.5 * float(jnp.sum(w**2)), rel=1e-6)
    assert box.num_samples == 2 * dz.num_queries(estimator, w)


def test_directions_keep_them_too():
    w = jnp.array([0.3, -0.7, 1.1])
    box = dz.black_box(offset, (), dtype="float64", batched=False)
    rge = dz.rge(smoothing=1e-4, num_directions=5)
    got = dz.value_and_grad(box, rge)(w, key=jax.random.key(0))[1]
    exact = dz.value_and_grad(lambda w: jnp.sum(w**2), rge)(w, key=jax.random.key(0))[1]
    np.testing.assert_allclose(got, exact, rtol=1e-4)
    assert box.num_samples == 6


def test_trees_and_inputs_that_do_not_move():
    def host(x, more):
        assert more["scale"].dtype == np.float64
        assert more["token"].dtype == np.int32
        return {"y": 1e4 + x * more["scale"], "z": (x.sum(1) > 0).astype(np.int32)}

    output = {"y": jax.ShapeDtypeStruct((2,), np.float64), "z": jax.ShapeDtypeStruct((), np.int32)}
    box = dz.black_box(host, output)
    more = {"scale": jnp.full((3, 2), 0.5), "token": jnp.arange(3)}
    fun = lambda w: jnp.sum(box(jnp.ones((3, 2)) * w, more)["y"])
    # An integer answer may move: such a box is evaluated and subtracted in float32.
    _, grads = dz.value_and_grad(fun, dz.cge(smoothing=1.0))(jnp.ones(2))
    np.testing.assert_allclose(grads, [1.5, 1.5], rtol=1e-2)


def test_with_x64_the_answers_are_float64(x64):
    box = dz.black_box(offset, (), dtype="float64")
    assert box(jnp.ones((2, 2))).dtype == jnp.float64
    fun = lambda w: box(w[None])[0]
    _, grads = dz.value_and_grad(fun, dz.cge(smoothing=1e-6))(jnp.array([0.3, 0.4]))
    np.testing.assert_allclose(grads, [0.6, 0.8], rtol=1e-5)


SHAPES = {
    "stack": lambda y: jnp.stack([y, 2 * y]),
    "stack last, with what does not move": lambda y: jnp.stack([jnp.zeros(2), y], axis=-1),
    "concatenate": lambda y: jnp.concatenate([y, jnp.ones(3), y]),
    "reshape": lambda y: y.reshape(2, 1, 1),
    "transpose": lambda y: jnp.outer(y, jnp.array([1.0, 2.0])).T,
    "take": lambda y: y[jnp.array([1, 0, 1])],
    "dynamic slice": lambda y: jax.lax.dynamic_slice(y, (0,), (1,)),
    "pad": lambda y: jnp.pad(y, (1, 2)),
    "where": lambda y: jnp.where(jnp.array([True, False]), y, 0),
    "cumsum": jnp.cumsum,
    "scan": lambda y: jax.lax.scan(lambda c, x: (c + x, c), 0.0, y)[1],
}


@pytest.mark.parametrize("name", SHAPES)
def test_linear_steps_behind_the_box_lose_nothing(name):
    w, smoothing = jnp.array([0.3, -0.7, 1.1]), 1e-4
    box = dz.black_box(offset, (), dtype="float64")
    behind = lambda y: jnp.sum(SHAPES[name](y) * 0.5)
    fun = lambda w: behind(box(jnp.array([[1.0], [2.0]]) * w))
    _, grads = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=smoothing)))(w)
    rows = np.array([1.0, 2.0])[:, None]
    slopes = rows**2 * (2 * np.asarray(w, np.float64) + smoothing)
    # All of them are linear: what they make of the answers they make of the slopes.
    zero = behind(jnp.zeros(2))
    exact = [float(behind(jnp.float32(column)) - zero) for column in slopes.T]
    np.testing.assert_allclose(grads, exact, rtol=2e-5, atol=2e-6)
