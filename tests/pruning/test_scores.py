"""Scores: against their formulas, and where no number of them would be right."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.problems import flatten, network_loss


@pytest.mark.parametrize(("smoothing", "size"), [(1e-10, 1.0), (1e-6, 100.0)])
def test_a_smoothing_too_small_for_scores_names_only_remedies_that_there_are(smoothing, size):
    with pytest.raises(ValueError, match=r"hoose smoothing of at least 1[e.]") as refused:
        dz.zo_grasp_scores(
            jnp.sum, size * jnp.ones((2, 2)), key=jax.random.key(0), smoothing=smoothing
        )
    assert "reuse" not in str(refused.value)


@pytest.mark.usefixtures("x64")
def test_grasp_is_minus_theta_times_hessian_times_gradient():
    matrix = jax.random.normal(jax.random.key(0), (4, 4))
    fun = lambda w: jnp.sum(jnp.sin(matrix @ w)) + jnp.sum(w**3)
    w = jax.random.normal(jax.random.key(1), (4,))
    expected = -w * (jax.hessian(fun)(w) @ jax.grad(fun)(w))
    assert np.allclose(dz.grasp_scores(fun, w), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_grasp_of_small_weights_of_16_bits_is_not_rounded_to_nothing(dtype):
    w = (1e-4 * jax.random.normal(jax.random.key(0), (100,))).astype(dtype)
    fun = lambda w: jnp.sum(jnp.square(w)) / 100
    scores, expected = dz.grasp_scores(fun, w), -4e-4 * jnp.square(w.astype(jnp.float32))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", ["shared", "independent", "released"])
def test_zo_grasp_follows_its_formula(variant):
    target = jnp.array([0.5, -1.0, 2.0])
    fun = lambda w: jnp.sum((w["a"] - target) ** 2) + jnp.sum(w["b"] ** 4)
    params = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([0.3])}
    key, s, mu = jax.random.key(3), 1e-2, 1e-4
    scores = dz.zo_grasp_scores(
        fun, params, key=key, num_directions=5, smoothing=mu, step=s, variant=variant
    )
    first, second = jax.random.split(key)
    second = first if variant == "shared" else second
    released = variant == "released"
    distribution = "tensor_sphere" if released else "normal"
    vg = dz.value_and_grad(fun, dz.rge(smoothing=mu, num_directions=5, distribution=distribution))
    scale = mu if released else 1.0
    start = jax.tree.map(lambda g: scale * g, vg(params, key=first)[1])
    moved = jax.tree.map(lambda p, g: p + s * g, params, start)
    stop = jax.tree.map(lambda g: scale * g, vg(moved, key=second)[1])
    expected = jax.tree.map(lambda p, a, b: -p * (b - a) / s, params, start, stop)
    assert np.allclose(flatten(scores), flatten(expected), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_shared_directions_correlate_with_grasp_and_independent_ones_do_not():
    fun, params, args = network_loss("cnn1", width=4, batch=16)
    loss = lambda p, *a: fun(p, *a)[0]
    exact = flatten(dz.grasp_scores(loss, params, *args))

    def correlation(variant):
        scores = jax.jit(
            lambda p: dz.zo_grasp_scores(
                loss,
                p,
                *args,
                key=jax.random.key(0),
                num_directions=1_000,
                variant=variant,
                smoothing=1e-3,
                step=1e-3,
            )
        )(params)
        return np.corrcoef(flatten(scores), exact)[0, 1]

    assert correlation("shared") > 0.7
    assert correlation("shared") > correlation("independent") + 0.2


def test_parameters_of_16_bits_are_scored_as_the_same_numbers_in_float32():
    x = jax.random.normal(jax.random.key(0), (16, 8))
    halves = jax.random.normal(jax.random.key(1), (8, 4)).astype(jnp.bfloat16) / 4
    loss = lambda w: jnp.mean(jnp.tanh(x @ w.astype(jnp.float32)) ** 4)
    found = [
        dz.zo_grasp_scores(loss, w, key=jax.random.key(2), num_directions=50)
        for w in (halves, halves.astype(jnp.float32))
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].dtype == jnp.float32
    assert np.count_nonzero(found[0]) == found[0].size


def test_bad_score_arguments():
    with pytest.raises(ValueError, match="variant must be one of"):
        dz.zo_grasp_scores(jnp.sum, jnp.ones(2), key=jax.random.key(0), variant="both")
    with pytest.raises(ValueError, match="step must be positive"):
        dz.zo_grasp_scores(jnp.sum, jnp.ones(2), key=jax.random.key(0), step=0.0)


def quartic(scale):
    weights = jnp.linspace(1.0, 3.0, 20)
    return lambda w: scale * jnp.sum(weights * w**4)


W = jnp.linspace(0.5, 1.5, 20)


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-5])
def test_scores_that_would_be_rounding_alone_are_refused_and_nan_under_jit(scale):
    scores = partial(dz.zo_grasp_scores, quartic(scale), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"step=0.005 along the estimated gradient .* too short"):
        scores(W)
    found = jax.jit(scores)(W)
    assert np.isnan(found).all()
    with pytest.raises(ValueError, match="raise the step"):
        dz.layer_ratios({"w": found[None]}, 0.5)
    # What the message says helps.
    found = scores(W, step=5e-3 / scale)
    assert correlation_with_grasp(found, scale) > 0.8


def test_scores_of_a_loss_of_usual_size_pass_and_agree_with_grasp():
    found = dz.zo_grasp_scores(quartic(1e-2), W, key=jax.random.key(0))
    assert correlation_with_grasp(found, 1e-2) > 0.8


def correlation_with_grasp(scores, scale):
    exact = dz.grasp_scores(quartic(scale), W)
    return np.corrcoef(scores, exact)[0, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step": math.inf}, "step must be positive, got inf"),
        ({"smoothing": {"a": 1e-3}}, "one number for all leaves"),
        ({"key": None}, r"draws random directions: pass key=jax.random.key"),
        ({"key": 0}, r"key must be a PRNG key, jax.random.key\(…\), got 0"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, r"one PRNG key, got \[3\] of them"),
    ],
)
def test_what_is_not_of_scores_is_named(given, words):
    with pytest.raises(ValueError, match=words):
        dz.zo_grasp_scores(quartic(1), W, **{"key": jax.random.key(0), **given})


@pytest.mark.parametrize("scores", [dz.grasp_scores, dz.zo_grasp_scores])
def test_scores_name_the_leaf_that_is_no_float(scores):
    params = {"w": W, "n": jnp.arange(3)}
    key = {} if scores is dz.grasp_scores else {"key": jax.random.key(0)}
    with pytest.raises(TypeError, match=r"params\['n'\] has dtype int32"):
        scores(lambda p: jnp.sum(p["w"]), params, **key)
