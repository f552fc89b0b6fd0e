"""Copies under ``vmap`` of a gradient through a box: those of cotangents alone share answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import samples_asked
from tests.estimators.boundary.test_laws import EXACT, TOLERANCE, draw, error, twin_of_one

WAYS = {
    "numbers": (EXACT, {}),
    "one side": (dz.cge(smoothing=1e-4), {}),
    "drawn": (EXACT, {"num_coordinates": 2}),
    "directions": (dz.rge(smoothing=1e-4, num_directions=4), {}),
    "basis": (EXACT, {"basis": np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]}),
    "colours": (EXACT, {"structure": np.ones((3, 5), bool)}),
}


@pytest.fixture
def box():
    return dz.black_box(lambda x: twin_of_one(x, np), (3,), dtype="float64")


@pytest.mark.parametrize("name", WAYS)
def test_a_jacobian_costs_what_a_gradient_does(x64, box, name):
    estimator, options = WAYS[name]
    f, x = dz.differentiable(box, estimator, **options), draw(6, 5)
    call = lambda x: f(x, key=jax.random.key(0))
    told = samples_asked(jax.jacrev(call), x)
    jacobian = jax.jit(jax.jacrev(call))(x)
    assert box.num_samples == told == 6 * dz.num_queries(f, x)
    pull = jax.vjp(call, x)[1]
    rows = [pull(c)[0] for c in jnp.eye(18).reshape(18, 6, 3)]
    np.testing.assert_allclose(jacobian.reshape(18, 6, 5), jnp.stack(rows), rtol=1e-9, atol=1e-12)
    if estimator is EXACT and name != "drawn":
        assert error(jacobian, jax.jacrev(twin_of_one)(x)) < TOLERANCE


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["numbers", "colours"])
def test_copies_of_inputs_are_asked_for_and_of_cotangents_not(x64, box, name, inside):
    estimator, options = WAYS[name]
    f, x, c = dz.differentiable(box, estimator, **options), draw(2, 6, 5), draw(4, 6, 3, seed=2)
    pulled = lambda f: lambda x, c: jax.vjp(f, x)[1](c)[0]
    over = [(0, None), (None, 0)] if inside else [(None, 0), (0, None)]
    mapped = lambda f: jax.vmap(jax.vmap(pulled(f), over[1]), over[0])
    told = samples_asked(mapped(f), x, c)
    found = jax.jit(mapped(f))(x, c)
    assert box.num_samples == told == 2 * 6 * dz.num_queries(f, x[0])
    assert error(found, mapped(twin_of_one)(x, c)) < TOLERANCE
