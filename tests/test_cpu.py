import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.difference.cpu import staged_sum


def test_sums_of_products_are_right_under_jit():
    # jaxlib 0.10 computes this wrong from row 128 on unless told otherwise (platform.py).
    keys = jax.random.split(jax.random.key(0))
    weights, x = jax.random.normal(keys[0], (256, 10)), jax.random.normal(keys[1], (180, 256, 10))
    fun = lambda x: jnp.log1p(1e-3 * jnp.sum(jnp.exp(weights) * jnp.expm1(x), axis=2))
    np.testing.assert_allclose(jax.jit(fun)(x), fun(x), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 16, 16, 8), (512, 128), (64, 32, 64), (2**15,)])
def test_staged_sums(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    for first in range(len(shape)):
        for last in range(first + 1, len(shape) + 1):
            axes = tuple(range(first, last))
            expected = np.sum(np.asarray(x, np.float64), axis=axes)
            np.testing.assert_allclose(staged_sum(x, axes), expected, rtol=1e-4, atol=1e-2)
