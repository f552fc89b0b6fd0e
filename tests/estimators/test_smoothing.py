"""What a smoothing may be, and what is refused where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.estimators import passes
from tests.marks import few
from tests.problems import estimated, flatten, quadratic, quadratic_problem, relative_error

MAKERS = {
    "cge": lambda smoothing: dz.cge(smoothing=smoothing),
    "rge": lambda smoothing: dz.rge(smoothing=smoothing, num_directions=3),
    "central": lambda smoothing: dz.cge(smoothing=smoothing, central=True),
    "cge_none": lambda smoothing: dz.cge(smoothing=smoothing, reuse="none"),
    "rge_central": lambda smoothing: dz.rge(smoothing=smoothing, num_directions=3, central=True),
    "rge_none": lambda smoothing: dz.rge(smoothing=smoothing, num_directions=3, reuse="none"),
}
PATHS = ("b/0", "b/1", "s", "w")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", few(MAKERS, 2))
def test_a_traced_smoothing_gives_what_the_number_gives(name):
    params, target = quadratic_problem()

    @jax.jit
    def at(smoothing):
        vg = dz.value_and_grad(quadratic, MAKERS[name](smoothing))
        return vg(params, target, key=jax.random.key(0))[1]

    for smoothing in (1e-2, 1e-3):
        expected = estimated(MAKERS[name](smoothing), quadratic, params, target)[1]
        assert relative_error(at(smoothing), expected) < 1e-9
    assert at._cache_size() == 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MAKERS)
def test_one_step_for_every_leaf_is_the_number(name):
    params, target = quadratic_problem()
    expected = estimated(MAKERS[name](1e-3), quadratic, params, target)[1]
    got = estimated(MAKERS[name](dict.fromkeys(PATHS, 1e-3)), quadratic, params, target)[1]
    assert relative_error(got, expected) < 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_each_leaf_of_a_coordinate_wise_estimate_takes_its_own_step(reuse):
    params, target = quadratic_problem()
    steps = dict(zip(PATHS, (1e-1, 1e-2, 1e-3, 1e-4), strict=True))
    got = estimated(dz.cge(smoothing=steps, reuse=reuse), quadratic, params, target)[1]
    for position, step in enumerate(steps.values()):
        alone = estimated(dz.cge(smoothing=step, reuse=reuse), quadratic, params, target)[1]
        leaf, expected = jax.tree.leaves(got)[position], jax.tree.leaves(alone)[position]
        assert np.allclose(leaf, expected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distribution", few(["normal", "rademacher", "sphere"]))
def test_random_directions_stretched_leaf_by_leaf_stay_unbiased(distribution):
    params, target = quadratic_problem()
    steps = dict(zip(PATHS, (1e-6, 2e-6, 4e-6, 1e-6), strict=True))
    exact = estimated(dz.first_order(), quadratic, params, target)[1]
    errors = []
    for num_directions in (1_000, 16_000):
        estimator = dz.rge(
            smoothing=steps,
            num_directions=num_directions,
            distribution=distribution,
            batch_size=500,
        )
        errors.append(relative_error(estimated(estimator, quadratic, params, target)[1], exact))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.2


@pytest.mark.parametrize("number", [np.float32(1e-3), np.float64(1e-3), np.asarray(1e-3), 1])
def test_numpy_scalars_are_numbers(number):
    got = estimated(dz.cge(smoothing=number), jnp.sum, jnp.ones(3))[1]
    assert np.allclose(got, 1.0, rtol=1e-5)
    assert dz.cge(smoothing=number).settings["smoothing"] == float(number)


@pytest.mark.parametrize("make", [dz.cge, dz.rge])
@pytest.mark.parametrize(
    "smoothing",
    [0.0, -1e-3, float("nan"), float("inf"), 1e-50, 1e-38, 1e39, True, np.True_, "1e-3", None, 1j],
)
def test_what_no_float32_holds_is_refused_at_construction(make, smoothing):
    with pytest.raises(ValueError, match=r"smoothing must (be a positive number|lie between)"):
        make(smoothing=smoothing)
    with pytest.raises(ValueError, match=r"smoothing\['w'\] must"):
        make(smoothing={"w": smoothing})


def test_a_traced_smoothing_must_be_a_floating_point_scalar():
    with pytest.raises(ValueError, match=r"traced smoothing must be .* got int32\[\]"):
        jax.jit(lambda step: dz.cge(smoothing=step) and step)(1)
    with pytest.raises(ValueError, match="traced smoothing must be a floating-point scalar"):
        jax.jit(lambda step: dz.cge(smoothing=step) and step)(jnp.ones(2))


def test_leaf_paths_of_a_smoothing_are_those_of_the_parameters():
    params, target = quadratic_problem()
    for name in ("cge", "rge"):
        unknown = MAKERS[name](dict.fromkeys((*PATHS, "b/2"), 1e-3))
        with pytest.raises(ValueError, match=r"'b/2' that params do not have, did you mean 'b/"):
            estimated(unknown, quadratic, params, target)
        missing = MAKERS[name](dict.fromkeys(("b/0", "b/1", "w"), 1e-3))
        with pytest.raises(ValueError, match=r"\['s'\] are missing"):
            estimated(missing, quadratic, params, target)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", ["cge_none", "rge_none"])
def test_half_precision_is_not_subtracted_below_its_resolution(dtype, name):
    params = jnp.ones(3, dtype)
    with pytest.raises(ValueError, match=f"below the resolution .* {jnp.dtype(dtype).name}"):
        estimated(MAKERS[name](1e-4), lambda w: jnp.sum(w.astype(jnp.float32) ** 2), params)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_propagates_steps_below_its_resolution(dtype):
    params = jnp.ones(3, dtype)
    fun = lambda w: jnp.sum(w.astype(jnp.float32) * jnp.array([1.0, 2.0, 3.0]))
    got = estimated(MAKERS["cge"](1e-3), fun, params)[1]
    assert np.allclose(np.asarray(got, np.float32), [1, 2, 3], rtol=1e-2)


def test_a_step_that_the_leaf_cannot_hold_is_refused_at_the_call():
    with pytest.raises(ValueError, match=r"between 6\.1e-05 .* float16"):
        estimated(MAKERS["cge"](1e-6), lambda w: jnp.sum(w), jnp.ones(2, jnp.float16))


def test_the_divisor_is_the_step_that_bfloat16_took():
    # bfloat16 takes 2⁻¹⁰ for it, 0.4 % less; a linear function must not notice.
    smoothing = 2**-10 * 1.0038
    fun = lambda w: w.astype(jnp.float32) * 3.0
    got = estimated(MAKERS["cge"](smoothing), fun, jnp.asarray(1.0, jnp.bfloat16))[1]
    assert float(flatten(got)[0]) == 3.0


@pytest.mark.parametrize("central", [False, True])
def test_a_swallowed_step_has_no_slope_however_the_losses_are_rounded(central):
    # Compiled, two losses of one point may differ by a unit in the last place.
    leaf, rounding = jnp.array([1e4]), iter([1.25, 1.5])
    moved_loss = lambda index, value: jnp.float32(next(rounding))
    slope = passes._quotient(moved_loss, leaf, 1e-4, jnp.float32(1.0), central)
    assert np.isnan(slope(jnp.int32(0)))
    apart = passes.SlopeFromBase(moved_loss, leaf, 1e-4)
    assert np.isnan(apart.quotients(jnp.array([1.25]), jnp.float32(1), jnp.array([0])))
