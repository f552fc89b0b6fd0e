"""Gradients through a box against autodiff of its JAX twin, in float64."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deepzero_jax as dz
from deepzero_jax.estimators import slopes_dropped

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(5, 3))
OTHER = RNG.normal(size=(2, 3))
EXACT = dz.cge(smoothing=1e-5, central=True)
TOLERANCE = 1e-6


def twin_of_one(x, xp=jnp):
    return xp.sin(x @ MIX)


def twin_of_many(inputs, times, xp=jnp):
    """Two inputs in a dictionary and integers; two outputs, of which one is an integer."""
    y = xp.tanh(inputs["a"] @ MIX + inputs["b"].reshape((-1, 2)) @ OTHER) * times[:, None]
    return {"answer": y, "energy": xp.sum(y**2, axis=1), "steps": times + 1}


@pytest.fixture
def box():
    return dz.black_box(lambda x: twin_of_one(x, np), (3,), dtype="float64")


@pytest.fixture
def box_of_many():
    return dz.black_box(
        lambda inputs, times: twin_of_many(inputs, times, np),
        {
            "answer": jax.ShapeDtypeStruct((3,), "float64"),
            "energy": jax.ShapeDtypeStruct((), "float64"),
            "steps": jax.ShapeDtypeStruct((), "int64"),
        },
        dtype="float64",
    )


def draw(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def error(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    gaps = [(float(jnp.max(jnp.abs(f - e))), float(jnp.max(jnp.abs(e)))) for f, e in pairs]
    return max(gap for gap, _ in gaps) / max(size for _, size in gaps)


def test_one_input(x64, box):
    f = dz.differentiable(box, EXACT)
    loss = lambda f: lambda w, x: jnp.sum(f(jnp.tanh(x @ w)) ** 2)
    w, x = draw(4, 5), draw(6, 4)
    value, grads = jax.jit(jax.value_and_grad(loss(f)))(w, x)
    expected, slopes = jax.value_and_grad(loss(twin_of_one))(w, x)
    assert error(grads, slopes) < TOLERANCE and float(value) == pytest.approx(float(expected))
    assert box.num_samples == 6 * (1 + 2 * 5) == 6 * dz.num_queries(f, x @ w)


def test_several_inputs_dictionaries_and_integers(x64, box_of_many):
    f = dz.differentiable(box_of_many, EXACT)
    inputs = {"a": draw(4, 5), "b": draw(4, 1, 2, seed=2)}
    times = jnp.arange(1, 5)

    def loss(f):
        def of(inputs):
            found = f(inputs, times)
            return jnp.sum(found["answer"][:, 0]) + jnp.sum(found["energy"] * found["steps"])

        return of

    assert error(jax.grad(loss(f))(inputs), jax.grad(loss(twin_of_many))(inputs)) < TOLERANCE
    assert box_of_many.num_samples == 4 * (1 + 2 * 7) == 4 * f.num_queries(inputs, times)
    only = jax.grad(lambda b: loss(f)({**inputs, "b": b}))(inputs["b"])
    assert error(only, jax.grad(loss(twin_of_many))(inputs)["b"]) < TOLERANCE
    # Inputs of which no derivative is wanted are not moved.
    assert box_of_many.num_samples == 4 * (1 + 2 * 7) + 4 * (1 + 2 * 2)


def through_a_scan(f):
    def loss(w, x):
        def step(state, _):
            answer = f(jnp.tanh(state @ w))
            return jnp.concatenate([answer, state[:, :2]], 1), answer

        return jnp.mean(jax.lax.scan(step, x, length=8)[1] ** 2)

    return loss


def called_twice(f):
    return lambda w, x: jnp.sum(f(x @ w) * f(jnp.sin(x @ w)))


def with_checkpoint(f):
    return lambda w, x: jnp.sum(jax.checkpoint(lambda x: f(jnp.tanh(x @ w)))(x) ** 2)


@pytest.mark.parametrize("loss", [through_a_scan, called_twice, with_checkpoint])
def test_it_composes(x64, box, loss):
    w, x = draw(5, 5), draw(3, 5, seed=2)
    f = dz.differentiable(box, EXACT)
    found = jax.jit(jax.grad(loss(f)))(w, x)
    assert error(found, jax.grad(loss(twin_of_one))(w, x)) < TOLERANCE
    calls = {through_a_scan: 8 * 11, called_twice: 2 * 11, with_checkpoint: 12}[loss]
    assert box.num_samples == 3 * calls


def test_vmap_over_parameters(x64, box):
    ws, x = draw(4, 5, 5), draw(3, 5, seed=2)
    f = dz.differentiable(box, EXACT)
    loss = lambda f: lambda w: jnp.sum(f(jnp.tanh(x @ w)) ** 2)
    found = jax.jit(jax.vmap(jax.grad(loss(f))))(ws)
    assert error(found, jax.vmap(jax.grad(loss(twin_of_one)))(ws)) < TOLERANCE
    assert box.num_samples == 4 * 3 * 11


@pytest.mark.parametrize("batched", [True, False])
def test_one_function_of_all_its_inputs(x64, batched):
    def whole(x, xp):
        # A box that takes batches answers sample by sample; another may mix all its inputs.
        return xp.sin(x) * x[:, ::-1] if batched else xp.cumsum(xp.sin(x), axis=0) * xp.sum(x**2)

    shape = (2,) if batched else (3, 2)
    box = dz.black_box(lambda x: whole(x, np), shape, dtype="float64", batched=batched)
    f = dz.differentiable(box, EXACT, samples=False)
    x = draw(3, 2)
    loss = lambda f: lambda x: jnp.sum(f(x) ** 3)
    of_twin = jax.grad(loss(lambda x: whole(x, jnp)))
    assert error(jax.grad(loss(f))(x), of_twin(x)) < TOLERANCE
    assert box.num_samples == (3 if batched else 1) * (1 + 2 * 6)
    stacked = jnp.stack([x, 2 * x])
    assert error(jax.vmap(jax.grad(loss(f)))(stacked), jax.vmap(of_twin)(stacked)) < TOLERANCE


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_traceable_functions(x64, central, reuse):
    smoothing = 1e-6 if reuse == "none" else 1e-9
    estimator = dz.cge(smoothing=1e-5 if central else smoothing, central=central, reuse=reuse)
    f = dz.differentiable(twin_of_many, estimator)
    inputs, times = {"a": draw(4, 5), "b": draw(4, 1, 2)}, jnp.arange(1, 5)
    loss = lambda f: lambda inputs: jnp.sum(f(inputs, times)["answer"] ** 3)
    found = jax.jit(jax.grad(loss(f)))(inputs)
    tolerance = TOLERANCE if central or reuse == "difference" else 1e-5
    assert error(found, jax.grad(loss(twin_of_many))(inputs)) < tolerance


def test_a_quantiser_has_the_slope_of_its_steps():
    quantise = lambda x: jnp.round(x * 4) / 4
    f = dz.differentiable(quantise, dz.cge(smoothing=0.5, central=True), structure="elementwise")
    slopes = jax.grad(lambda x: jnp.sum(f(x)))(draw(3, 8))
    assert jnp.all(slopes == 1) and jnp.all(
        jax.grad(lambda x: jnp.sum(quantise(x)))(draw(3, 8)) == 0
    )


def test_a_box_inside_a_traceable_function_is_asked_no_more_than_it_is_counted(box):
    f = dz.differentiable(lambda x: jnp.tanh(box(x)), dz.cge(smoothing=1e-3))
    jax.grad(lambda x: jnp.sum(f(x)))(draw(7, 5))
    assert box.num_samples == 7 * 6 == 7 * dz.num_queries(f, draw(7, 5))


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(5)(x))


def test_networks_of_flax_nnx_and_equinox_train_through_a_box(x64, box):
    x = draw(6, 4)
    f = dz.differentiable(box, EXACT)
    module = Dense()
    variables = module.init(jax.random.key(0), x)

    def of_linen(f):
        return lambda p: jnp.sum(
            f(module.apply({**variables, "params": p}, x, mutable=["batch_stats"])[0]) ** 2
        )

    params = variables["params"]
    assert error(jax.grad(of_linen(f))(params), jax.grad(of_linen(twin_of_one))(params)) < TOLERANCE
    layer = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
    of_nnx = lambda f: lambda layer: jnp.sum(f(layer(x)) ** 2)
    found, expected = (nnx.grad(of_nnx(g))(layer) for g in (f, twin_of_one))
    assert error(found, expected) < TOLERANCE
    own = eqx.nn.Linear(4, 5, key=jax.random.key(0))
    of_equinox = lambda f: lambda own: jnp.sum(f(jax.vmap(own)(x)) ** 2)
    found, expected = (eqx.filter_grad(of_equinox(g))(own) for g in (f, twin_of_one))
    assert error(found, expected) < TOLERANCE


def test_float32_boxes_are_divided_by_the_step_that_was_taken():
    box = dz.black_box(lambda x: 3 * x, (2,))
    f = dz.differentiable(box, dz.cge(smoothing=1e-3))
    x = jnp.array([[1234.5, 0.1]])
    # At 1234.5 a step of 1e-3 is 0.000976…: only the step that was taken gives 3.
    assert jax.grad(lambda x: jnp.sum(f(x)))(x) == pytest.approx(np.array([[3, 3]]), rel=1e-3)


def test_a_small_smoothing_is_kept_where_jax_has_float32_alone():
    box = dz.black_box(lambda x: 1000 + x**2, (1,), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing=1e-6))
    x = jnp.array([[0.5], [2.0]])
    assert jax.grad(lambda x: jnp.sum(f(x)))(x) == pytest.approx(np.array([[1], [4]]), rel=1e-5)


@pytest.mark.parametrize("estimator", [dz.cge(), dz.rge(num_directions=3)], ids=["cge", "rge"])
@pytest.mark.parametrize("cotangent", [np.nan, np.inf])
def test_a_cotangent_that_is_no_number_is_not_taken_for_a_missing_answer(estimator, cotangent):
    host = lambda x: np.stack([x[:, 0], np.zeros(len(x))], 1)  # the second never moves: inf · 0
    box = dz.black_box(host, (2,), on_failure="nan", retries=0)
    f = dz.differentiable(box, estimator)
    found = jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(0)) * cotangent))(jnp.ones((1, 2)))
    assert not np.isfinite(np.asarray(found)).any()


@pytest.mark.parametrize("basis", [None, np.eye(3)], ids=["numbers", "basis"])
@pytest.mark.parametrize("estimator", [dz.cge, dz.rge], ids=["cge", "rge"])
def test_vmap_over_the_smoothing_moves_each_copy_by_its_own(estimator, basis):
    cubes = dz.black_box(lambda x: np.sum(x**3, axis=1), (), dtype="float64")
    x, key = jnp.array([[0.5, 1.0, 1.5]]), jax.random.key(0)

    def slopes(smoothing):
        f = dz.differentiable(cubes, estimator(smoothing=smoothing), basis=basis)
        return jax.grad(lambda x: f(x, key=key)[0])(x)

    steps = jnp.array([0.1, 0.01])
    found = jax.vmap(slopes)(steps)
    np.testing.assert_allclose(found, jnp.stack([slopes(step) for step in steps]), rtol=1e-4)


def half(scale, estimator, size, **options):
    """A box of float16 inputs, and its gradient at ones."""
    host = lambda x: scale * x.astype(np.float64).sum(1, keepdims=True)
    f = dz.differentiable(dz.black_box(host, (1,), dtype="float64"), estimator, **options)
    x = jnp.ones((1, size), jnp.float16)
    loss = lambda x: jnp.sum(f(x, key=jax.random.key(0)).astype(jnp.float32))
    return f, x, jax.grad(loss)(x)


def test_float16_inputs_neither_underflow_nor_overflow():
    found = half(1e-6, dz.rge(smoothing=1e-3, num_directions=500), 4)[2]
    np.testing.assert_allclose(found, np.full((1, 4), 1e-6), rtol=0.25)
    found = half(100, dz.cge(smoothing=1e-3), 784, num_coordinates=100)[2]
    assert float(jnp.max(found)) == pytest.approx(784, rel=1e-3)
    f, x, _ = half(300, dz.rge(smoothing=1e-3, num_directions=50), 4)
    assert 0.2 < float(f.estimate(jnp.ones((1, 1)), x, key=jax.random.key(0)).spread) < 0.5


@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_float16_inputs_of_a_function(reuse):
    f = dz.differentiable(
        lambda x: jnp.sum(jnp.sin(x), axis=1), dz.cge(smoothing=2e-2, central=True, reuse=reuse)
    )
    x = jnp.linspace(0.1, 1, 6, dtype=jnp.float16).reshape(2, 3)
    found = jax.grad(lambda x: jnp.sum(f(x).astype(jnp.float32)))(x)
    tolerance = 2e-3 if reuse == "difference" else 6e-2
    np.testing.assert_allclose(found, np.cos(x), atol=tolerance)


def test_inputs_of_two_types_run_along_one_basis():
    box = dz.black_box(lambda x, y: (x.astype(np.float64) + y).sum(1), (), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing=1e-2), basis=np.eye(6))
    loss = lambda x, y: jnp.sum(f(x, y))
    found = jax.grad(loss, (0, 1))(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((2, 3)))
    for grad in found:
        np.testing.assert_allclose(np.asarray(grad, np.float32), np.ones((2, 3)), rtol=1e-2)


@pytest.mark.parametrize("fun", [lambda x: jnp.sum(x, axis=1), "box"], ids=["function", "box"])
def test_an_empty_batch_has_an_empty_gradient(fun):
    fun = dz.black_box(lambda x: x.sum(1), ()) if fun == "box" else fun
    f = dz.differentiable(fun, dz.cge())
    assert jax.grad(lambda x: jnp.sum(f(x)))(jnp.ones((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("options", [{}, {"structure": "elementwise"}], ids=["cge", "colours"])
def test_slopes_that_are_dropped_are_counted(options):
    host = lambda x: np.where((x if options else x[:, :1]) > 1.0005, np.nan, x)
    box = dz.black_box(host, (3,), dtype="float64", on_failure="nan", retries=0)
    f = dz.differentiable(box, dz.cge(smoothing=1e-2), **options)
    before = slopes_dropped()
    x = jnp.ones((2, 3)).at[:, 1:].set(0.5)
    grads = jax.block_until_ready(jax.grad(lambda x: jnp.sum(f(x)))(x))
    # The numbers of a colour move in one call, and its sample has no answer.
    expected = [0, 0, 0] if options else [0, 1, 1]
    np.testing.assert_allclose(grads, [expected] * 2, rtol=1e-4)
    assert slopes_dropped() - before == 2 * expected.count(0)
