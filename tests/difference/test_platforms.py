import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.difference import forms_of
from deepzero_jax.difference.platforms import staged_sum
from tests.marks import long
from tests.problems import network_loss


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


def lowered_step(platform, estimator, depth):
    fun, params, args = network_loss(f"cnn{depth}", width=8, batch=8, size=8)
    vg = dz.value_and_grad(fun, estimator, has_aux=True)
    with forms_of(platform):
        return jax.jit(vg).lower(params, *args), (params, *args)


def convolutions_of(lowered):
    return [line for line in lowered.as_text().splitlines() if "stablehlo.convolution" in line]


@long
def test_the_forms_of_every_platform_give_the_same_numbers(x64):
    # In float32 how a compiler sums decides on the slopes of biases in front of a norm, all zero.
    found = {}
    for platform in ("cpu", "gpu", "plain"):
        lowered, args = lowered_step(platform, dz.cge(), depth=2)
        found[platform] = lowered.compile()(*args)[1]
        # Where shifts are summed, no convolution has a group for each coordinate.
        grouped = sum("feature_group_count = 1 " not in line for line in convolutions_of(lowered))
        assert (grouped == 0) == (platform != "plain"), platform
    exact = found.pop("plain")
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(exact))
    for grads in found.values():
        chex.assert_trees_all_close(grads, exact, rtol=1e-10, atol=1e-10 * scale)


@pytest.mark.parametrize(("platform", "result"), [("gpu", "bf16"), ("tpu", "f32"), ("cpu", "f32")])
def test_convolutions_of_bfloat16_have_results_that_the_platform_has(platform, result):
    lowered, _ = lowered_step(platform, dz.cge(delta_dtype=jnp.bfloat16), depth=3)
    types = [line.rsplit("->", 1)[1] for line in convolutions_of(lowered) if "xbf16>" in line]
    assert types
    assert all(f"x{result}>" in kind for kind in types)


def test_a_misspelt_platform_is_refused():
    with (
        pytest.raises(ValueError, match=r"no forms of 'cuda' \(known: cpu, gpu, tpu, plain\)"),
        forms_of("cuda"),
    ):
        pass
