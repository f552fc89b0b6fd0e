"""Steps of a few units in the last place: what rounding does to them is no error in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.estimators.rounding import along_the_step, nearest
from tests.marks import few

# Numbers of 2⁻⁷, 2⁻⁹ and 2⁻¹² in the last place; a leaf of one number.
POINT = {
    "a": 1e5 * np.array([1.0, 1.1, 1.2, 1.25], np.float32),
    "b": 2e4 * np.array([1.0, 1.1, 1.5], np.float32),
    "c": np.array([3000.0], np.float32),
}
SLOPES = {"a": np.array([1.0, -0.5, 2.0, 0.7]), "b": np.array([1.0, 1.5, -1.0]), "c": np.ones(1)}
ULP, SIZE = 2.0**-7, 8
DISTRIBUTIONS = ("normal", "rademacher", "sphere", "tensor_sphere")
# Estimates, each of so many directions.
RUNS, DIRECTIONS = 16, 1500


def change(leaves):
    """Of a linear loss, from its value at the point: small numbers, held exactly."""
    return sum(
        (np.asarray(leaf, np.float64) - POINT[name]) @ SLOPES[name] for name, leaf in leaves.items()
    )


def box():
    single = lambda **leaves: change(leaves).astype(np.float32)
    return dz.black_box(lambda leaves: single(**leaves), ())


def in_a_loss(estimator, keys):
    asked = box()
    loss = lambda p: asked(jax.tree.map(lambda leaf: leaf[None], p))[0]
    vg = dz.value_and_grad(loss, estimator)
    return jax.vmap(lambda key: vg(as_jax(), key=key)[1])(keys)


def called(fun, argument):
    """The answer, one number, of a callback that is no black box."""
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(fun, shape, argument, vmap_method="expand_dims")


def in_a_callback(estimator, keys):
    vg = dz.value_and_grad(lambda p: called(lambda q: np.float32(change(q)), p), estimator)
    return jax.jit(jax.vmap(lambda key: vg(as_jax(), key=key)[1]))(keys)


def at_a_boundary(estimator, keys):
    f = dz.differentiable(box(), estimator)
    rows = jax.tree.map(lambda leaf: jnp.tile(leaf, (len(keys), 1)), as_jax())
    return jax.grad(lambda rows: jnp.sum(f(rows, key=keys[0])))(rows)


def correcting(estimator, keys):
    exact = lambda p: sum((p[name] - POINT[name]) @ jnp.asarray(SLOPES[name]) for name in p)
    f = dz.differentiable(box(), estimator, surrogate=exact)
    rows = jax.tree.map(lambda leaf: jnp.tile(leaf, (len(keys), 1)), as_jax())
    return jax.grad(lambda rows: jnp.sum(f(rows, key=keys[0])))(rows)


def by_asking(estimator, keys):
    def one(key):
        points, tell = dz.ask(estimator, as_jax(), key)
        return tell(change(points))[1]

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, keys))


def loss_of(p):
    return sum(jnp.vdot(p[name] - POINT[name], SLOPES[name]) for name in p)


def subtracting(estimator):
    return dz.rge(**{**estimator.settings, "reuse": "none"})


def subtracted(estimator, keys):
    vg = dz.value_and_grad(loss_of, subtracting(estimator))
    return jax.jit(jax.vmap(lambda key: vg(as_jax(), key=key)[1]))(keys)


def subtracted_at_a_boundary(estimator, keys):
    linear = lambda p: sum((p[name] - POINT[name]) @ jnp.asarray(SLOPES[name]) for name in p)
    f = dz.differentiable(linear, subtracting(estimator))
    rows = jax.tree.map(lambda leaf: jnp.tile(leaf, (len(keys), 1)), as_jax())
    return jax.grad(lambda rows: jnp.sum(f(rows, key=keys[0])))(rows)


WAYS = {
    "loss": in_a_loss,
    "callback": in_a_callback,
    "boundary": at_a_boundary,
    "surrogate": correcting,
    "ask": by_asking,
    "subtracted": subtracted,
    "boundary of a function": subtracted_at_a_boundary,
}


def as_jax():
    return jax.tree.map(jnp.asarray, POINT)


def off(found, slopes):
    """Distance of the mean of runs from slopes, leaf by leaf, in standard errors."""
    far = {}
    for name, exact in slopes.items():
        along = np.asarray(found[name], np.float64) @ exact / (exact @ exact)
        far[name] = (along.mean() - 1) / (along.std(ddof=1) / len(along) ** 0.5 + 1e-5)
    return far


def expected(distribution, corrects=False):
    # Of unit length in each leaf, and not multiplied by its size, but where it corrects.
    unit = distribution == "tensor_sphere" and not corrects
    return {name: s / (len(s) if unit else 1) for name, s in SLOPES.items()}


def estimator_of(distribution="normal", ulps=1.3, central=False, **settings):
    # The length of a leaf on a sphere of its own is shared by its numbers.
    longer = {"tensor_sphere": 2, "sphere": SIZE**0.5}.get(distribution, 1)
    smoothing = longer * ulps * ULP
    defaults = {"num_directions": DIRECTIONS, "smoothing": smoothing, "batch_size": 500}
    return dz.rge(distribution=distribution, central=central, **(defaults | settings))


def runs(number=RUNS):
    return jax.random.split(jax.random.key(1), number)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("distribution", few(DISTRIBUTIONS))
@pytest.mark.parametrize("ulps", few([0.7, 1.3, 2.5, 5.0]))
def test_the_mean_of_random_directions_is_the_gradient_leaf_by_leaf(way, distribution, ulps):
    exact = expected(distribution, corrects=way == "surrogate")
    far = off(WAYS[way](estimator_of(distribution, ulps), runs()), exact)
    assert max(map(abs, far.values())) < 4, far


@pytest.mark.parametrize("way", few(WAYS))
@pytest.mark.parametrize("distribution", ["rademacher"])
def test_so_is_that_of_central_differences(way, distribution):
    found = WAYS[way](estimator_of(distribution, 1.3, central=True), runs())
    far = off(found, expected(distribution))
    assert max(map(abs, far.values())) < 4, far


@pytest.mark.parametrize("ulps", [0.1, 0.3])
def test_a_leaf_whose_step_is_swallowed_takes_nothing_from_the_others(caplog, ulps):
    found = in_a_loss(estimator_of("normal", ulps), runs())
    far = off(found, SLOPES)
    assert max(map(abs, far.values())) < 4, far
    assert "it moves by chance" in caplog.text


@pytest.mark.parametrize("dtype", few([jnp.bfloat16, jnp.float16]))
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_so_is_that_of_parameters_of_16_bits(dtype, distribution):
    at = jnp.linspace(1.1, 3.9, 8).astype(dtype)
    eps = float(jnp.finfo(dtype).eps)
    g = jnp.asarray([1.0, -1.0, 2.0, 0.5, 1.0, -2.0, 1.0, 1.0])
    loss = lambda w: jnp.vdot(w.astype(jnp.float32) - at.astype(jnp.float32), g)
    estimator = dz.rge(
        smoothing=1.3 * eps, num_directions=DIRECTIONS, distribution=distribution, reuse="none"
    )
    vg = dz.value_and_grad(loss, estimator)
    found = jax.jit(jax.vmap(lambda key: vg(at, key=key)[1]))(runs(64)).astype(jnp.float32)
    far = off({"small": found[:, :3], "large": found[:, 3:]}, {"small": g[:3], "large": g[3:]})
    assert max(map(abs, far.values())) < 4, far


@pytest.mark.parametrize("central", [False, True])
def test_the_step_that_a_callback_was_given_divides(caplog, central):
    estimator = dz.cge(smoothing=1.3 * ULP, central=central)
    loss = lambda p: called(lambda q: np.float32(change(q)), p)
    found = jax.jit(dz.value_and_grad(loss, estimator))(as_jax())[1]
    for name, exact in SLOPES.items():
        np.testing.assert_allclose(found[name], exact, rtol=1e-5)
    assert not caplog.messages


def test_a_callback_that_no_step_moves_is_told(caplog):
    loss = lambda p: called(lambda q: q.sum(-1) - np.float32(1e5), p)
    found = dz.value_and_grad(loss, dz.cge(smoothing=1e-3))(jnp.array([1e5, 1.0]))[1]
    assert found[0] == 0
    assert "do not move what a callback is given, in its type (1 of 2 calls)" in caplog.text


def test_a_sample_of_one_number_has_the_slope_that_it_has():
    """Though rounding to nearest leaves some of its steps out."""
    f = dz.differentiable(
        dz.black_box(lambda x: (x[:, 0] - 1e5).astype(np.float32), ()),
        dz.rge(smoothing=0.7 * ULP, num_directions=DIRECTIONS),
    )
    slopes = jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(0))))(jnp.full((RUNS, 1), 1e5))
    assert abs(off({"x": slopes}, {"x": np.ones(1)})["x"]) < 4


def test_the_least_numbers_of_float16_move_as_on_the_host():
    """What lay below 6e-5 after its step had become 0."""
    base = np.array([3e-5, -1e-4, 5e-5, 6e4, 0.1], np.float16)
    step = np.array([1e-5, 1.2e-4, -2e-5, 6e4, 1e-3], np.float16)
    with np.errstate(over="ignore"):
        on_host = nearest([base], [step], on_host=True)
    found = jax.jit(lambda base, step: nearest([base], [step]).ahead[0])(base, step)
    np.testing.assert_array_equal(found, on_host.ahead[0])


def test_points_that_are_asked_are_those_of_value_and_grad():
    estimator = estimator_of("rademacher", 1.3)
    told, found = (WAYS[way](estimator, runs(2)) for way in ("ask", "subtracted"))
    for name in POINT:
        np.testing.assert_allclose(told[name], found[name], rtol=1e-3)


def test_how_a_step_is_rounded_does_not_depend_on_what_is_asked_beside_it():
    found = [
        in_a_loss(estimator_of("rademacher", 1.3, num_directions=7, batch_size=size), runs(1))
        for size in (1, 3, 7)
    ]
    for name in POINT:
        for other in found[1:]:
            np.testing.assert_allclose(found[0][name], other[name], rtol=1e-5)


def test_a_direction_in_a_loop_is_rounded_at_random_too():
    asked = box()
    rows = lambda p: jax.tree.map(lambda leaf: leaf[None], p)

    def loss(p):
        again = lambda total, _: (total + asked(rows(p))[0], None)
        return jax.lax.scan(again, jnp.float32(0), None, length=2)[0]

    vg = dz.value_and_grad(loss, estimator_of("rademacher", 0.7))
    found = jax.vmap(lambda key: vg(as_jax(), key=key)[1])(runs())
    far = off(found, {name: 2 * slopes for name, slopes in SLOPES.items()})
    assert max(map(abs, far.values())) < 4, far


def test_a_step_along_many_numbers_is_not_shortened():
    """As of a parameter that moves all inputs of a box: least squares would give 0.95."""
    rng = np.random.default_rng(0)
    asked = 1.3 * rng.normal(size=(4000, 30))
    went, slopes = np.round(asked), rng.normal(size=30)
    share = along_the_step([asked], [went], 1, on_host=True)
    found, exact = share * (went @ slopes), asked @ slopes
    assert found @ exact / (exact @ exact) == pytest.approx(1, abs=0.025)


def test_where_one_factor_undoes_the_rounding_it_does():
    asked = np.array([[1.3, -1.3, 1.3], [0.6, 0.6, -0.6], [0.0, 2.4, 0.0]])
    share = along_the_step([asked], [np.round(asked)], 1, on_host=True)
    np.testing.assert_allclose(share[:, None] * np.round(asked), asked)


SWALLOWED = {"a": jnp.float32(1e5), "b": jnp.asarray([0.5, 0.3], jnp.float32)}


def of_swallowed(p):
    return jnp.sum(p["b"] * jnp.array([1.0, 2.0])) + 2 * (p["a"] - 1e5)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_parameter_that_no_step_moves_has_no_slope_under_jit(distribution):
    estimator = dz.rge(smoothing=1e-3, num_directions=400, distribution=distribution, reuse="none")
    vg = dz.value_and_grad(of_swallowed, estimator)
    key = jax.random.key(0)
    grads = jax.jit(lambda p: vg(p, key=key)[1])(SWALLOWED)
    assert np.isnan(grads["a"])
    assert np.isfinite(grads["b"]).all()
    with pytest.raises(ValueError, match=r"does not move params\['a'\] where it is 1e\+05"):
        vg(SWALLOWED, key=key)


def test_a_parameter_that_is_not_to_move_is_none_of_them():
    coordinates = {"a": jnp.zeros(0, jnp.int32), "b": jnp.arange(2)}
    vg = dz.value_and_grad(of_swallowed, dz.rge(smoothing=1e-3, num_directions=4, reuse="none"))
    at = lambda p: vg(p, key=jax.random.key(0), coordinates=coordinates)[1]
    grads = jax.jit(at)(SWALLOWED)
    assert grads["a"] == 0
    assert np.isfinite(grads["b"]).all()


@pytest.mark.parametrize("way", [dz.ask, lambda e, p, k: dz.value_and_grad(jnp.sum, e)(p, key=k)])
def test_steps_of_a_sphere_are_as_short_as_its_numbers_are_many(way):
    sphere = dz.rge(smoothing=1e-3, num_directions=4, distribution="sphere", reuse="none")
    few_, many = jnp.full(4, 1000.0), jnp.full(10_000, 1000.0)
    way(sphere, few_, jax.random.key(0))
    with pytest.raises(ValueError, match=r"where it is 1e\+03.*at least 0\.01"):
        way(sphere, many, jax.random.key(0))


@pytest.mark.parametrize("estimator", [dz.rge(smoothing=1e-3, reuse="none"), None])
def test_nor_has_an_input_of_a_function_that_is_subtracted(estimator):
    basis = None if estimator else np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    estimator = estimator or dz.cge(smoothing=1e-3, reuse="none")
    f = dz.differentiable(lambda x: jnp.sum(x, 1), estimator, basis=basis)
    x = jnp.array([[1e5, 1.0, 1.0], [1.0, 1.0, 1.0]])
    grads = jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(0))))(x)
    assert np.isnan(grads).tolist() == [[True, False, False], [False] * 3]
