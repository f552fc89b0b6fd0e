from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.estimators import CoordinateEstimator
from deepzero_jax.split import SplitFunction
from tests.problems import (
    estimated,
    flatten,
    quadratic,
    quadratic_problem,
)

ESTIMATORS = {
    "cge": dz.cge(smoothing=1e-4),
    "central": dz.cge(smoothing=1e-3, central=True),
    "cge_none": dz.cge(smoothing=1e-4, reuse="none"),
    "rge_none": dz.rge(smoothing=1e-5, num_directions=3, reuse="none"),
    "rge_normal": dz.rge(smoothing=1e-5, num_directions=3),
    "rge_central": dz.rge(smoothing=1e-5, num_directions=3, central=True),
    "rge_sphere": dz.rge(smoothing=1e-5, num_directions=3, distribution="sphere"),
    "rge_rademacher": dz.rge(smoothing=1e-5, num_directions=3, distribution="rademacher"),
    "first_order": dz.first_order(),
}
# Laws that every estimator obeys.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_value_structure_and_zeros_outside_the_coordinates(name):
    params, target = quadratic_problem()
    coordinates = {
        "w": jnp.array([1, 5]),
        "b": (jnp.arange(0), jnp.array([0])),
        "s": jnp.array([0]),
    }
    value, grads = estimated(ESTIMATORS[name], quadratic, params, target, coordinates=coordinates)
    assert float(value) == pytest.approx(float(quadratic(params, target)), rel=1e-12)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    for got, leaf in zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True):
        assert got.shape == leaf.shape and got.dtype == leaf.dtype
    assert np.flatnonzero(grads["w"]).tolist() == [1, 5]
    assert not np.any(grads["b"][0])
    assert np.flatnonzero(grads["b"][1]).tolist() == [0]
    assert grads["s"] != 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_aux_comes_from_the_base_pass(name):
    fun = lambda w, x: (jnp.sum(w * x), {"w": w})
    params = jnp.array([1.0, 2.0])
    (value, aux), _ = estimated(ESTIMATORS[name], fun, params, jnp.ones(2), has_aux=True)
    assert value == 3.0
    assert aux["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_coordinates_at_all(name):
    params, target = quadratic_problem()
    nothing = jax.tree.map(lambda leaf: jnp.zeros(0, jnp.int32), params)
    _, grads = estimated(ESTIMATORS[name], quadratic, params, target, coordinates=nothing)
    assert not np.any(flatten(grads))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_number_of_queries_is_what_the_function_sees(name):
    calls = []

    def host(w):
        calls.append(w)
        return np.float32(np.sum(w**2))

    def fun(w):
        if name == "first_order":
            return jnp.sum(w**2)
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(host, shape, w, vmap_method="sequential")

    estimator = ESTIMATORS[name]
    jax.block_until_ready(estimated(estimator, fun, jnp.arange(5.0))[1])
    expected = dz.num_queries(estimator, jnp.arange(5.0))
    counts = {"cge": 6, "cge_none": 6, "central": 11, "first_order": 1, "rge_central": 7}
    assert expected == counts.get(name, 4)
    if name != "first_order":
        assert len(calls) == expected


# Bad input.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dz.cge(smoothing=0.0), "smoothing must be a positive number"),
        (lambda: dz.cge(smoothing=-1e-3), "smoothing must be a positive number"),
        (lambda: dz.cge(smoothing=float("nan")), "smoothing must be a positive number"),
        (lambda: dz.cge(smoothing=1e-3, reuse="half"), "reuse must be one of"),
        (lambda: dz.cge(smoothing=1e-3, batch_size=0), "batch_size"),
        (lambda: dz.rge(smoothing=1e-3, num_directions=0), "num_directions"),
        (lambda: dz.rge(smoothing=1e-3, distribution="cauchy"), "distribution must be one of"),
        (lambda: dz.cge(reuse="none", delta_dtype="bfloat16"), 'with reuse="none" there are none'),
        (lambda: dz.cge(reuse="split", delta_dtype=jnp.bfloat16), "propagated differences"),
        (lambda: dz.rge(reuse="none", delta_dtype="bfloat16"), "propagated differences"),
        (lambda: dz.cge(batch_size=True), "batch_size"),
        (lambda: dz.rge(num_directions=True), "num_directions"),
    ],
)
def test_bad_estimators_are_refused_at_construction(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_bad_calls_name_the_offender():
    square = lambda w: jnp.sum(w**2)
    with pytest.raises(ValueError, match="pass key="):
        dz.value_and_grad(square, dz.rge(smoothing=1e-3))(jnp.ones(2))
    with pytest.raises(TypeError, match="estimator must come from"):
        dz.value_and_grad(square, "cge")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="real scalar, got shape"):
        dz.value_and_grad(lambda w: w**2, dz.cge(smoothing=1e-3))(jnp.ones(2))
    with pytest.raises(TypeError, match="pair"):
        dz.value_and_grad(square, dz.cge(smoothing=1e-3), has_aux=True)(jnp.ones(2))
    with pytest.raises(ValueError, match="cut into stages"):
        dz.value_and_grad(square, dz.cge(smoothing=1e-3, reuse="split"))(jnp.ones(2))
    with pytest.raises(ValueError, match="structure of params"):
        dz.value_and_grad(square, dz.cge(smoothing=1e-3))(jnp.ones(2), coordinates=[jnp.arange(1)])


# What an estimator is, for those who build on it.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (dz.cge, "cge(smoothing=0.0001, central=False, reuse='difference', batch_size='auto')"),
        (
            lambda: dz.rge(num_directions=3, delta_dtype="bfloat16"),
            "rge(smoothing=0.0001, num_directions=3, distribution='normal', central=False, "
            "ranked=False, reuse='difference', delta_dtype='bfloat16', batch_size='auto')",
        ),
        (dz.first_order, "first_order()"),
    ],
)
def test_repr_reads_like_the_call(make, words):
    assert repr(make()) == words


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_copy_may_have_another_name_and_price(name):
    params, target = quadratic_problem()
    copy = replace(ESTIMATORS[name], name="other", num_queries=lambda count: 7)
    assert isinstance(copy, dz.Estimator)
    assert copy.name == "other" and dz.num_queries(copy, params) == 7
    got, expected = (estimated(e, quadratic, params, target)[1] for e in (copy, ESTIMATORS[name]))
    assert np.array_equal(flatten(got), flatten(expected))


@pytest.mark.parametrize("name", ["cge", "cge_none", "rge_none", "rge_normal", "first_order"])
def test_keyword_arguments_reach_the_loss_as_they_are(name):
    def fun(w, x, *, scale, square):
        return scale * jnp.sum(w * x) ** (2 if square else 1)

    vg = dz.value_and_grad(fun, ESTIMATORS[name])
    key = jax.random.key(0)
    # ``square`` decides in Python, so it must not be traced.
    call = lambda p, x, s: vg(p, x, key=key, scale=s, square=True)
    value, grads = jax.jit(call)(jnp.ones(2), jnp.array([1.0, 2.0]), 3.0)
    assert value == 27.0
    if not name.startswith("rge"):
        assert np.allclose(grads, [18.0, 36.0], rtol=1e-2)
    costs = dz.coordinate_costs(fun, jnp.ones(2), jnp.ones(2), scale=3.0, square=True)
    assert list(costs) == [""]


def test_keyword_arguments_reach_a_loss_in_stages():
    stages = (lambda p, c, x, *, k: p["a"] * x, lambda p, c, x, *, k: k * (c + p["b"]))
    fun = SplitFunction(stages, {"a": 0, "b": 1}.__getitem__)
    params = {"a": jnp.float32(2.0), "b": jnp.float32(3.0)}
    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-2, reuse="split"))
    value, grads = vg(params, 5.0, k=2.0)
    assert value == 26.0
    assert np.allclose([grads["a"], grads["b"]], [10.0, 2.0], rtol=1e-3)


def test_an_estimator_of_ones_own():
    def values(loss, params, coordinates):
        head = loss.value_and_aux(params)
        return head, jax.tree.map(lambda i: jnp.full(i.shape, 2.0), coordinates)

    own = CoordinateEstimator(
        name="two", num_queries=lambda count: 1, values=values, chunk_sizes=lambda *_: [1]
    )
    value, grads = estimated(own, jnp.sum, jnp.ones(3), coordinates=jnp.array([0, 2]))
    assert value == 3.0 and grads.tolist() == [2.0, 0.0, 2.0]
    assert repr(own) == "two()"


def test_lists_of_numbers_are_parameters():
    value, grads = dz.value_and_grad(lambda p: p[0] * p[1], dz.cge(smoothing=1e-2))([2.0, 3.0])
    assert value == 6.0 and np.allclose(grads, [3.0, 2.0], rtol=1e-4)


def test_a_key_that_the_function_wants_is_not_swallowed():
    def loss(params, scale, key=None):
        return jnp.sum(params * scale) * (1 if key is None else jax.random.uniform(key))

    key, other, at = jax.random.key(0), jax.random.key(1), jnp.ones(2)
    vg = dz.value_and_grad(loss, dz.rge(num_directions=2))
    with pytest.raises(ValueError, match="key= is of the estimate, and the function has"):
        vg(at, 2.0, key=key)
    by_position = vg(at, 2.0, other, key=key)[0]
    bound = dz.value_and_grad(partial(loss, key=other), dz.rge(num_directions=2))
    assert by_position == bound(at, 2.0, key=key)[0] == loss(at, 2.0, other)
