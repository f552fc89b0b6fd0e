"""Losses and parameters of 16 bits: slopes are of the parameters' type, and of the step taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.split import SplitFunction
from tests.conftest import AS_USERS
from tests.marks import few
from tests.problems import relative_error

W = np.array([1.5, 2.5, -1.0])
# Of slopes beyond the range of float16, below it, and beside one that it holds.
SCALES = {"large": (1e6, 3e5, -2e6), "small": (1e-7, 3e-9, 2.0)}
ESTIMATORS = {
    "cge": dz.cge(),
    "central": dz.cge(central=True),
    "many": dz.cge(batch_size=2),
    "rge": dz.rge(num_directions=64, distribution="rademacher"),
}


def loss_of(scale, dtype):
    """Near zero, where it is finite in float16 though its slopes are not."""
    level = sum(np.sin(W) * scale)
    return lambda p: (
        jnp.sum(jnp.sin(jnp.concatenate(p)) * np.array(scale, "f4")) - level.astype("f4")
    ).astype(dtype)


def slopes(fun, estimator, w):
    return jax.jit(dz.value_and_grad(fun, estimator))((w[:1], w[1:]), key=jax.random.key(0))[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", SCALES)
def test_slopes_are_not_of_the_type_of_the_loss(scale, name, dtype):
    fun, estimator = (loss_of(SCALES[scale], kind) for kind in (dtype, "float32")), ESTIMATORS[name]
    found, exact = (slopes(f, estimator, jnp.asarray(W, jnp.float32)) for f in fun)
    for part, expected in zip(found, exact, strict=True):
        assert part.dtype == jnp.float32
        np.testing.assert_allclose(part, expected, rtol=1e-5)


def test_slopes_of_float64_parameters_are_of_float64(x64):
    fun, exact = (loss_of((1.0, 2.0, 3.0), dtype) for dtype in ("bfloat16", "float64"))
    found = slopes(fun, dz.cge(smoothing=1e-7), jnp.asarray(W))
    assert relative_error(found, jax.grad(exact)((W[:1], W[1:]))) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.bfloat16])
def test_a_cast_rounds_the_base_and_lets_steps_pass(dtype):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), "f4") for shape in ((4, 5), (5, 3)))
    narrow = lambda a: a.astype(dtype).astype(jnp.float32)
    loss = lambda w: jnp.sum(
        jax.lax.dot(x.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32) ** 2
    )
    exact = 2 * narrow(x).T @ (narrow(x) @ narrow(w))
    assert relative_error(jax.jit(dz.value_and_grad(loss, dz.cge()))(w)[1], exact) < 1e-2


@pytest.mark.parametrize("estimator", [dz.cge, dz.rge])
@pytest.mark.parametrize("central", [False, True])
def test_a_quotient_of_coarse_losses_does_not_overflow(estimator, central):
    """What is subtracted is rounded to 16 bits; the step that divides it and the slope are not."""
    options = {"num_directions": 512, "distribution": "rademacher"} if estimator is dz.rge else {}
    found = jax.jit(
        dz.value_and_grad(
            lambda w: jnp.sum((w - 1) * jnp.array([1e7, -2e7])).astype(jnp.float16),
            estimator(smoothing=2.0**-20, reuse="none", central=central, **options),
        )
    )(jnp.ones(2), key=jax.random.key(0))[1]
    np.testing.assert_allclose(found, [1e7, -2e7], rtol=0.1)
    tiny = dz.value_and_grad(
        lambda w: jnp.sum(w * 3).astype(jnp.float16), dz.cge(smoothing=2e-7, reuse="none")
    )
    np.testing.assert_allclose(tiny(jnp.zeros(2))[1], 3, rtol=0.2)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_step_that_parameters_of_16_bits_took_divides(dtype, central):
    w = jnp.array([1.1, 2.2, 3.9]).astype(dtype)
    exact, level = jnp.array([1.0, -1.0, 2.0]), w.astype(jnp.float32)
    loss = lambda w: jnp.vdot(w.astype(jnp.float32) - level, exact)
    smoothing = 2.3 * float(jnp.finfo(dtype).eps)
    estimator = dz.cge(smoothing=smoothing, reuse="none", central=central)
    found = jax.jit(dz.value_and_grad(loss, estimator))(w)[1]
    np.testing.assert_array_equal(found.astype(jnp.float32), exact)


DEAD_WAYS = {
    "one by one": dz.cge(smoothing=1e-3, reuse="none", batch_size=1),
    "in chunks": dz.cge(smoothing=1e-3, reuse="none", batch_size=5),
    "together": dz.cge(smoothing=1e-3, reuse="none"),
    "of the end": dz.cge(smoothing=1e-3, reuse="split"),
    "random": dz.rge(smoothing=1e-3, reuse="none", num_directions=20),
    "random, in chunks": dz.rge(smoothing=1e-3, reuse="none", num_directions=20, batch_size=6),
}


@pytest.mark.parametrize("level", few(["2", "0"]))
@pytest.mark.parametrize("dtype", few(["bfloat16", "float32"]))
@pytest.mark.parametrize("way", DEAD_WAYS)
def test_what_moves_nothing_has_a_slope_of_zero(way, dtype, level):
    """XLA rounds inside of a base pass of its own otherwise than inside of the moved ones."""
    rng = np.random.default_rng(0)
    x, inner, outer = (jnp.asarray(rng.normal(size=s), dtype) for s in ((6, 5), (5, 4), (4, 3)))

    def hidden(params, carry):
        # Units that do not fire, whatever moves by a step.
        dead = jax.nn.relu(x @ params["w"].astype(dtype) + params["b"].astype(dtype))
        return jax.nn.relu(x @ inner) + dead

    def loss(params, h):
        dead = jax.nn.relu(h @ params["v"].astype(dtype) - 100)
        logits = (h @ outer + dead).astype(jnp.float32)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])

    shapes = {"w": (5, 4), "b": (4,), "v": (4, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape), "f4") for name, shape in shapes.items()}
    params["b"] -= 100
    fun = SplitFunction([hidden, loss], lambda path: path == "v")
    run = jax.jit(dz.value_and_grad(fun, DEAD_WAYS[way]))
    options = {"key": jax.random.key(0)} if "random" in way else {}
    chosen = {**AS_USERS, "xla_backend_optimization_level": level}
    compiled = run.lower(params, **options).compile(chosen)
    # The sum over directions of what the two programs differ by is taken off: up to its rounding.
    most = 1e-10 if "random" in way else 0
    for slopes in jax.tree.leaves(compiled(params, **options)[1]):
        np.testing.assert_allclose(slopes, 0, atol=most)


@pytest.mark.parametrize("dtype", few([jnp.bfloat16, jnp.float16]))
def test_a_network_with_a_maximum_in_coarse_numbers_has_the_slopes_of_autodiff(dtype):
    """XLA had left a value unrounded where its maximum was subtracted from it."""
    rng = np.random.default_rng(0)
    x, kernel, head = (
        jnp.asarray(rng.normal(size=shape), "f4")
        for shape in ((8, 6, 6, 3), (3, 3, 3, 4), (3 * 3 * 4, 5))
    )

    def loss(kernel, dtype):
        numbers = ("NHWC", "HWIO", "NHWC")
        hidden = lax.conv_general_dilated(
            x.astype(dtype), kernel.astype(dtype), (1, 1), "SAME", dimension_numbers=numbers
        )
        window = (1, 2, 2, 1)
        pooled = lax.reduce_window(jax.nn.silu(hidden), -jnp.inf, lax.max, window, window, "VALID")
        logits = pooled.reshape(8, -1) @ head.astype(dtype)
        return -jnp.mean(jax.nn.log_softmax(logits.astype(jnp.float32))[:, 0])

    slopes = jax.grad(loss)(kernel, jnp.float32)
    run = jax.jit(lambda k: dz.value_and_grad(lambda k: loss(k, dtype), dz.cge())(k)[1])
    found = run.lower(kernel).compile(AS_USERS)(kernel)
    assert relative_error(found, slopes) < 0.1
