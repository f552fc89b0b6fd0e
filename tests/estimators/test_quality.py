import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz


def test_quality_is_that_of_the_flattened_vectors():
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda first, second: {
        "a": jax.random.normal(first, (3, 4)),
        "b": jax.random.normal(second, (5,)),
    }
    estimate, exact = draw(*keys[:2]), draw(*keys[2:])
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    u, v = flat(estimate), flat(exact)
    found = jax.jit(dz.gradient_quality)(estimate, exact)
    np.testing.assert_allclose(
        found.cosine, u @ v / np.linalg.norm(u) / np.linalg.norm(v), rtol=1e-5
    )
    np.testing.assert_allclose(
        found.relative_error, np.linalg.norm(u - v) / np.linalg.norm(v), rtol=1e-5
    )


def test_only_the_coordinates_count_and_padding_does_not():
    estimate, exact = jnp.array([1.0, 9.0, 2.0]), jnp.array([2.0, 3.0, 4.0])
    found = dz.gradient_quality(estimate, exact, jnp.array([0, 2, 3]))
    np.testing.assert_allclose(found, (1.0, 0.5), rtol=1e-6)
    assert dz.gradient_quality(jnp.zeros(3), exact).cosine == 0.0


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_angle(number):
    broken, exact = jnp.array([number, 1.0]), jnp.ones(2)
    for pair in ((broken, exact), (exact, broken), (broken, 0 * exact)):
        assert np.isnan(dz.gradient_quality(*pair).cosine)


def test_unlike_trees_are_refused():
    with pytest.raises(ValueError, match="same structure"):
        dz.gradient_quality({"a": jnp.zeros(2)}, {"b": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"differ in shape: \(2,\) and \(3,\)"):
        dz.gradient_quality(jnp.zeros(2), jnp.zeros(3))


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e-25), ("float32", 1e25), ("float16", 300)]
)
def test_neither_small_nor_large_numbers_are_lost(dtype, size):
    g = jnp.array([1, 2, -1, 0.5], dtype) * jnp.asarray(size, dtype)
    quality = dz.gradient_quality(g, g)
    assert float(quality.cosine) == pytest.approx(1, rel=1e-6)
    assert float(quality.relative_error) == 0
    assert float(dz.gradient_quality(2 * g, g).relative_error) == pytest.approx(1, rel=1e-3)
    assert float(dz.gradient_quality(0 * g, g).relative_error) == pytest.approx(1, rel=1e-3)
    assert float(dz.gradient_quality(g, 0 * g).relative_error) == np.inf


def test_it_is_one_program():
    # Of arrays split over CPU devices, several would wait for each other, at times for ever.
    params = {"w": jnp.ones((4, 2)), "v": jnp.ones(4)}
    program = jax.make_jaxpr(dz.gradient_quality)(params, params)
    assert [eqn.primitive.name for eqn in program.eqns] == ["jit"]
