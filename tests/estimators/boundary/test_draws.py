"""Drawn coordinates and directions: unbiased, with any surrogate; their spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz

MIX = np.random.default_rng(0).normal(size=(6, 4))
X = jax.random.normal(jax.random.key(1), (3, 6))
V = jax.random.normal(jax.random.key(2), (3, 4))
DRAWS = 4000


def twin(x):
    return jnp.tanh(x @ MIX)


def wrong(x):
    return jnp.cos(x @ MIX[::-1]) * 3


SURROGATES = {"none": None, "right": twin, "wrong": wrong}
ESTIMATORS = {
    "drawn": (dz.cge(smoothing=1e-5), {"num_coordinates": 2}),
    # Two-sided: this basis is far from orthonormal and enlarges the truncation.
    "drawn from a basis": (
        dz.cge(smoothing=1e-4, central=True),
        {"num_coordinates": 2, "basis": np.random.default_rng(3).normal(size=(6, 6))},
    ),
    "normal": (dz.rge(smoothing=1e-5, num_directions=3), {}),
    "antithetic": (dz.rge(smoothing=1e-4, num_directions=3, central=True), {}),
    "sphere": (dz.rge(smoothing=1e-5, num_directions=3, distribution="sphere"), {}),
    "rademacher": (dz.rge(smoothing=1e-5, num_directions=3, distribution="rademacher"), {}),
    "in a basis": (dz.rge(smoothing=1e-5, num_directions=3), {"basis": np.eye(6)[::-1]}),
}


# Without a surrogate they have no factor, as in DeepZero's released code.
CORRECTED = {
    "tensor sphere": (dz.rge(smoothing=1e-5, num_directions=3, distribution="tensor_sphere"), {}),
    "tensor sphere in a basis": (
        dz.rge(smoothing=1e-5, num_directions=3, distribution="tensor_sphere"),
        {"basis": np.eye(6)[::-1]},
    ),
}
PAIRS = [(e, s) for e in ESTIMATORS for s in SURROGATES] + [(e, "wrong") for e in CORRECTED]


def test_on_the_spheres_of_several_leaves_a_surrogate_is_corrected_without_bias():
    estimator, _ = CORRECTED["tensor sphere"]
    f = dz.differentiable(
        lambda a, b: 3 * jnp.sum(a, 1) + 5 * b[:, 0],
        estimator,
        surrogate=lambda a, b: 2 * jnp.sum(a, 1),
    )
    slopes = jax.grad(lambda a, b, key: jnp.sum(f(a, b, key=key)), argnums=(0, 1))
    a, b = jnp.ones((1000, 4)), jnp.ones((1000, 1))
    of_a, of_b = jax.jit(slopes)(a, b, jax.random.key(0))
    np.testing.assert_allclose(of_a.mean(0), 3 * np.ones(4), atol=0.6)
    np.testing.assert_allclose(of_b.mean(0), [5], atol=0.6)


@pytest.mark.parametrize(("name", "surrogate"), PAIRS)
def test_estimates_are_unbiased(name, surrogate):
    estimator, options = (ESTIMATORS | CORRECTED)[name]
    f = dz.differentiable(twin, estimator, surrogate=SURROGATES[surrogate], **options)
    one = jax.jit(lambda keys: jax.lax.map(lambda k: f.estimate(V, X, key=k)[1:], keys))
    grads, spreads = one(jax.random.split(jax.random.key(4), DRAWS))
    exact = jax.grad(lambda x: jnp.sum(twin(x) * V))(X)
    mean, deviation = grads.mean(0), grads.std(0) / DRAWS**0.5
    assert float(jnp.max(jnp.abs(mean - exact) / (deviation + 1e-4))) < 5
    # The spread that is told is the one that is had.
    had = jnp.sqrt(jnp.mean(jnp.sum((grads - exact) ** 2, (1, 2))))
    told = jnp.sqrt(jnp.mean((spreads**2) * jnp.sum(grads**2, (1, 2))))
    if surrogate == "right":
        assert had < 1e-3 * jnp.linalg.norm(exact)
    else:
        assert float(told / had) == pytest.approx(1, abs=0.1)


def test_each_sample_has_its_own_directions():
    same = jnp.broadcast_to(X[:1], X.shape)
    for options in ({"num_directions": 2}, None):
        if options is None:
            f = dz.differentiable(twin, dz.cge(smoothing=1e-4), num_coordinates=2)
        else:
            f = dz.differentiable(twin, dz.rge(smoothing=1e-4, **options))
        grads = jax.grad(lambda x, f=f: jnp.sum(f(x, key=jax.random.key(0))))(same)
        assert len(np.unique(np.asarray(grads), axis=0)) == 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_box_and_its_twin_give_the_same_estimate(name):
    estimator, options = ESTIMATORS[name]
    box = dz.black_box(lambda x: np.tanh(x @ MIX), (4,), dtype="float64")
    key = jax.random.key(7)
    found, expected = (
        jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x, key=key) * V)))(X)
        for f in (dz.differentiable(fun, estimator, **options) for fun in (box, twin))
    )
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert box.num_samples == 3 * dz.differentiable(box, estimator, **options).num_queries(X)


def test_drawing_all_coordinates_is_exact():
    exact = jax.grad(lambda x: jnp.sum(twin(x) * V))(X)
    f = dz.differentiable(twin, dz.cge(smoothing=1e-5), num_coordinates=99)
    found = f.estimate(V, X, key=jax.random.key(0))
    np.testing.assert_allclose(found.gradients, exact, rtol=1e-4, atol=1e-5)
    assert found.spread == 0 and f.num_queries(X) == 7


def test_the_state_of_a_surrogate_may_be_traced():
    def loss(scale, x, key):
        f = dz.differentiable(
            twin, dz.rge(smoothing=1e-4, num_directions=2), surrogate=lambda x: scale * twin(x)
        )
        step = lambda x, key: (x - 0.1 * jax.grad(lambda x: jnp.sum(f(x, key=key)))(x), None)
        return jax.lax.scan(step, x, jax.random.split(key, 3))[0]

    exact = X
    for _ in range(3):
        exact = exact - 0.1 * jax.grad(lambda x: jnp.sum(twin(x)))(exact)
    found = jax.jit(loss)(jnp.float32(1.0), X, jax.random.key(0))
    np.testing.assert_allclose(found, exact, atol=1e-3)
