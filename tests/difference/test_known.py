"""Numbers that are known while tracing are those that XLA would have computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.difference import trace

NUMBERS = [2.5, -2.5, 300.0, 3e9, -3e9, np.inf, -np.inf, np.nan, 0.0]


@pytest.mark.parametrize(
    "dtype", ["int8", "int32", "uint8", "uint32", "bool", "float16", "float32"]
)
def test_a_cast_of_a_known_number_is_that_of_xla(dtype):
    # Through one operation: of a number alone JAX itself makes a constant.
    casts = lambda x: [x * (jnp.float32(n) * 2).astype(dtype).astype(jnp.float32) for n in NUMBERS]
    found, _ = dz.difference(casts, (jnp.float32(1),), (jnp.float32(1e-3),))
    np.testing.assert_array_equal(found, jax.jit(casts)(jnp.float32(1)))


@pytest.mark.parametrize("number", [-1, 0, 2, 5])
def test_a_known_choice_is_made_as_xla_makes_it(number):
    fun = lambda x: lax.select_n(jnp.int32(number), x, 2 * x, x**2)
    out, delta = dz.difference(fun, (jnp.array([3.0]),), (jnp.array([1e-3]),))
    assert out == jax.jit(fun)(jnp.array([3.0]))
    np.testing.assert_allclose(delta, fun(3 + 1e-3) - fun(3.0), rtol=1e-3)


def test_what_is_not_chosen_is_no_part_of_the_program():
    program, _ = trace(lambda x: jnp.var(x, axis=1), jnp.ones((2, 3)))
    assert "select_n" not in {eqn.primitive.name for eqn in program.equations}
