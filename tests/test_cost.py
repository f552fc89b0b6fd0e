import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.cost import live_bytes, memory_budget, multiply_adds


def test_convolution_and_dot_counts():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))

    def conv(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)

    assert multiply_adds(conv, image, kernel) == 2 * 64 * 5 * 27
    grouped = lambda x, w: lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
    )
    assert multiply_adds(grouped, image, jnp.zeros((3, 3, 1, 6))) == 2 * 64 * 6 * 9
    batched = lambda x, w: jnp.einsum("bij,bjk->bik", x, w)
    assert multiply_adds(batched, jnp.zeros((7, 2, 3)), jnp.zeros((7, 3, 4))) == 7 * 24


def test_loops_multiply():
    matrix = jnp.zeros((3, 3))
    body = lambda carry, _: (jnp.dot(matrix, carry), None)
    looped = lambda v: lax.scan(body, v, length=10)[0]
    assert multiply_adds(jax.jit(looped), jnp.zeros(3)) == 90


def test_live_bytes_follow_the_last_use():
    def chain(x):
        for _ in range(5):
            x = jnp.sin(x)
        return x

    fan = lambda x: sum([jnp.sin(x), jnp.cos(x), jnp.tanh(x)])
    x = jnp.zeros(1000)
    assert live_bytes(chain, x) == 2 * 4000
    assert live_bytes(fan, x) >= 3 * 4000


def test_memory_budget_is_positive():
    assert memory_budget() > 0
