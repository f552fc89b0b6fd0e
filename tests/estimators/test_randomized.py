import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.marks import few, long
from tests.problems import estimated, flatten, quadratic, quadratic_problem, relative_error


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distribution", few(["normal", "sphere", "rademacher"]))
@pytest.mark.parametrize("sparse", [False, True])
def test_mean_of_random_estimates_approaches_the_gradient_at_the_root_rate(distribution, sparse):
    params, target = quadratic_problem()
    coordinates = None
    if sparse:
        coordinates = dz.sample_coordinates(jax.random.key(9), params, {"w": 0.5})
    exact = estimated(dz.first_order(), quadratic, params, target, coordinates=coordinates)[1]
    errors = []
    for num_directions in (100, 1_600):
        estimator = dz.rge(
            smoothing=1e-6,
            num_directions=num_directions,
            distribution=distribution,
            batch_size=100,
        )
        vg = dz.value_and_grad(quadratic, estimator)
        over_keys = jax.vmap(lambda k, vg=vg: vg(params, target, key=k, coordinates=coordinates))
        _, runs = jax.jit(over_keys)(jax.random.split(jax.random.key(1), 30))
        per_run = [jax.tree.map(lambda leaf, i=i: leaf[i], runs) for i in range(30)]
        errors.append(np.sqrt(np.mean([relative_error(g, exact) ** 2 for g in per_run])))
    assert np.log2(errors[0] / errors[1]) / 4 == pytest.approx(0.5, abs=0.1), errors


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_directions_do_not_depend_on_the_chunks(batch_size):
    params, target = quadratic_problem()
    make = lambda size: dz.rge(smoothing=1e-3, num_directions=10, batch_size=size)
    whole = estimated(make(10), quadratic, params, target)[1]
    got = estimated(make(batch_size), quadratic, params, target)[1]
    assert relative_error(got, whole) < 1e-9


def test_key_decides_the_directions():
    params, target = quadratic_problem()
    estimator = dz.rge(smoothing=1e-5, num_directions=3)
    first, same, other = (
        flatten(estimated(estimator, quadratic, params, target, seed=seed)[1]) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_directions_are_not_stored_for_all_of_q():
    params = jnp.zeros(10_000)
    estimator = dz.rge(smoothing=1e-3, num_directions=5_000, batch_size=2)
    vg = jax.jit(dz.value_and_grad(lambda w: jnp.sum(w**2), estimator))
    memory = vg.lower(params, key=jax.random.key(0)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 50 * params.nbytes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reuse", few(["difference", "none"], rest=long))
@pytest.mark.parametrize("distribution", few(["normal", "sphere", "rademacher"]))
def test_error_along_the_directions_falls_with_the_order_of_the_difference(distribution, reuse):
    # Compared along the same directions, so that what is left is the truncation.
    params, target = quadratic_problem()
    make = lambda smoothing, central: dz.rge(
        smoothing=smoothing,
        num_directions=4,
        distribution=distribution,
        central=central,
        reuse=reuse,
    )
    exact = estimated(make(1e-6, True), quadratic, params, target)[1]
    for central, order in ((False, 1), (True, 2)):
        errors = [
            relative_error(estimated(make(s, central), quadratic, params, target)[1], exact)
            for s in (2e-2, 1e-2)
        ]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25), errors


@pytest.mark.usefixtures("x64")
def test_antithetic_directions_are_exact_on_a_quadratic():
    params = jax.random.normal(jax.random.key(2), (5,))
    fun = lambda w: jnp.sum(w**2) + w[0] * w[1]
    for reuse in ("difference", "none"):
        estimator = dz.rge(smoothing=0.5, num_directions=3, central=True, reuse=reuse)
        got = estimated(estimator, fun, params)[1]
        slope_of = dz.rge(smoothing=1e-8, num_directions=3, central=True)
        assert relative_error(got, estimated(slope_of, fun, params)[1]) < 1e-6
        one_sided = dz.rge(smoothing=0.5, num_directions=3, reuse=reuse)
        assert relative_error(estimated(one_sided, fun, params)[1], flatten(got)) > 0.1


@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_low_precision_parameters_do_not_lose_terms_of_the_sum(batch_size):
    # Signs on one number: every term is the slope.
    estimator = dz.rge(
        smoothing=1e-2, num_directions=2048, distribution="rademacher", batch_size=batch_size
    )
    vg = jax.jit(dz.value_and_grad(lambda w: 3 * w.astype(jnp.float32), estimator))
    grad = vg(jnp.bfloat16(1.0), key=jax.random.key(0))[1]
    assert grad.dtype == jnp.bfloat16
    assert float(grad) == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("reuse", ["difference", "none"])
@pytest.mark.parametrize("params", [{}, {"a": jnp.zeros(0)}], ids=["no leaf", "an empty leaf"])
def test_parameters_without_a_number(reuse, params):
    fun = lambda params: sum(map(jnp.sum, jax.tree.leaves(params)), jnp.ones(()))
    value, grads = dz.value_and_grad(fun, dz.rge(reuse=reuse))(params, key=jax.random.key(0))
    assert float(value) == 1
    assert jax.tree.structure(grads) == jax.tree.structure(params)


@pytest.mark.parametrize("distribution", ["sphere", "tensor_sphere"])
def test_many_float16_parameters_have_a_direction_of_unit_length(distribution):
    w = jnp.ones(70_000, jnp.float16)
    rge = dz.rge(smoothing=1e-2, num_directions=2, distribution=distribution)
    loss = lambda w: jnp.sum(w.astype(jnp.float32)) / 300
    found = dz.value_and_grad(loss, rge)(w, key=jax.random.key(0))[1]
    assert float(jnp.max(jnp.abs(found))) > 0


@pytest.mark.parametrize("distribution", ["normal", "sphere", "rademacher"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_directions_of_16_bits_have_no_mean(dtype, distribution):
    """A mean of m of its numbers would add m² Σ slopes to every slope."""
    size = 20_000
    loss = lambda w: 100 * jnp.mean(w.astype(jnp.float32))
    estimator = dz.rge(smoothing=1e-2, num_directions=400, distribution=distribution)
    vg = jax.jit(dz.value_and_grad(loss, estimator))
    grads = vg(jnp.zeros(size, dtype), key=jax.random.key(0))[1]
    assert grads.dtype == dtype
    assert float(jnp.mean(grads.astype(jnp.float32))) == pytest.approx(100 / size, rel=0.2)


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_directions_do_not_depend_on_what_is_drawn_beside_them(kind):
    key, w = jax.random.key(0, impl=kind), jnp.linspace(-1, 1, 12)
    loss = lambda w: jnp.sum(jnp.sin(w) * jnp.arange(12.0))
    found = [
        dz.value_and_grad(loss, dz.rge(smoothing=1e-3, num_directions=5, batch_size=size))(
            w, key=key
        )
        for size in (1, 3, 5)
    ]
    points, tell = dz.ask(dz.rge(smoothing=1e-3, num_directions=5), w, key=key)
    found.append(tell([float(loss(point)) for point in points]))
    vg = dz.value_and_grad(loss, dz.rge(smoothing=1e-3, num_directions=5))
    keys = jnp.stack([jax.random.key(1, impl=kind), key])
    values, of_both = jax.vmap(lambda key: vg(w, key=key))(keys)
    found.append((values[1], of_both[1]))
    for value, grads in found[1:]:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-5)
        np.testing.assert_allclose(grads, found[0][1], rtol=1e-2)
