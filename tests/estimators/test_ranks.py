"""Random directions whose losses are replaced by their places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

import deepzero_jax as dz
from deepzero_jax.estimators import slopes_dropped
from deepzero_jax.estimators.ranks import centred_ranks
from tests.conftest import AS_USERS
from tests.marks import few, long
from tests.problems import flatten, relative_error
from tests.runs import on_devices

PARAMS = {"a": np.linspace(0.1, 1.0, 4), "b": np.array([0.5, -0.3])}
KEY = jax.random.key(3)
SETTINGS = [
    {"central": central, "reuse": reuse, "distribution": distribution}
    for central, reuse, distribution in [
        (True, "none", "normal"),
        (False, "difference", "sphere"),
        (False, "none", "normal"),
        (True, "difference", "normal"),
    ]
]


def returns(params):
    return jnp.sum(jnp.sin(params["a"]) ** 2) + jnp.sum(params["b"] ** 3)


def estimate(fun, params=PARAMS, num_directions=7, **settings):
    estimator = dz.rge(smoothing=1e-2, num_directions=num_directions, ranked=True, **settings)
    return jax.jit(dz.value_and_grad(fun, estimator))(params, key=KEY)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("settings", few(SETTINGS, 2))
def test_the_estimate_is_that_of_places(settings):
    plain = dz.rge(smoothing=1e-2, num_directions=7, **settings)
    points, _ = dz.ask(plain, PARAMS, KEY)
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], points)
    losses = np.array([returns(at(i)) for i in range(1, len(points["b"]))])
    places = (rankdata(losses) - 1) / (len(losses) - 1) - 0.5
    slopes = (places[:7] - places[7:]) / 2 if settings["central"] else places
    moves = np.stack([flatten(at(i)) - flatten(at(0)) for i in range(1, 8)]) / 1e-2
    expected = slopes @ moves / 1e-2 / 7 * (6 if settings["distribution"] == "sphere" else 1)

    value, grads = estimate(returns, **settings)
    assert value == returns(PARAMS)
    np.testing.assert_allclose(flatten(grads), expected, rtol=1e-9)
    # Outside of JAX, the same numbers of the same losses.
    _, tell = dz.ask(dz.rge(smoothing=1e-2, num_directions=7, ranked=True, **settings), PARAMS, KEY)
    _, told = tell([float(returns(PARAMS)), *losses])
    np.testing.assert_allclose(flatten(told), expected, rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("settings", few(SETTINGS, 1))
def test_any_increasing_function_of_the_loss_has_the_same_estimate(settings):
    plain, grown = (
        estimate(fun, **settings)[1] for fun in (returns, lambda p: jnp.exp(9 * returns(p)))
    )
    assert relative_error(grown, plain) < 1e-12
    falling = estimate(lambda p: -returns(p), **settings)[1]
    assert relative_error(jax.tree.map(jnp.negative, falling), plain) < 1e-12


@pytest.mark.parametrize("number", few([9, 8, 17, 25]))
def test_places_are_whole_as_users_compile_them(number):
    """A loss that XLA computes twice, and rounds otherwise, was found between two places."""
    x, w = (jax.random.normal(jax.random.key(k), shape) for k, shape in ((2, (7, 6)), (3, (6, 4))))
    params = {"b": jnp.zeros(4), "s": jnp.float32(1.3), "w": 0.5 * w}
    fun = lambda p: jnp.mean(jnp.tanh(x @ p["w"] + p["b"]) ** 2) * p["s"]
    settings = {"smoothing": 1e-2, "num_directions": number}
    key = jax.random.key(1)
    run = jax.jit(dz.value_and_grad(fun, dz.rge(ranked=True, **settings)))
    grads = flatten(run.lower(params, key=key).compile(AS_USERS)(params, key=key)[1])
    points, _ = dz.ask(dz.rge(**settings), params, key)
    at = np.concatenate([leaf.reshape(number + 1, -1) for leaf in points.values()], axis=1)
    moves = (at[1:].astype(np.float64) - at[0]) / 1e-2
    places = np.linalg.lstsq(moves.T, grads * number * 1e-2, rcond=None)[0]
    np.testing.assert_allclose(sorted(places), np.linspace(-0.5, 0.5, number), atol=1e-3)


@pytest.mark.parametrize("xp", [np, jnp])
def test_equal_losses_share_their_places_and_what_does_not_count_has_none(xp):
    losses = xp.asarray([3.0, 1.0, 3.0, np.inf, -2.0, np.inf, 0.5])
    counts = xp.asarray([True, True, True, True, True, False, True])
    found = centred_ranks(losses, counts)
    known = rankdata(np.asarray(losses)[np.asarray(counts)])
    np.testing.assert_allclose(found[np.asarray(counts)], (known - 1) / 5 - 0.5)
    unknown = xp.where(xp.arange(7) == 1, np.nan, losses)
    assert np.isnan(centred_ranks(unknown, counts)).all()
    assert centred_ranks(losses[:1], counts[:1]) == 0


def test_a_flat_loss_has_no_slope():
    assert not flatten(estimate(lambda p: 0.0 * returns(p), central=True)[1]).any()


def test_an_infinite_loss_is_the_worst_and_a_nan_is_told():
    def cliff(at):
        return lambda p: jnp.where(p["b"][0] > 0.5, at, returns(p))

    worst, large = (flatten(estimate(cliff(at), reuse="none")[1]) for at in (np.inf, 1e9))
    assert np.isfinite(worst).all()
    # All beyond the cliff are equal, in both.
    np.testing.assert_allclose(worst, large, rtol=1e-6)
    assert np.isnan(flatten(estimate(cliff(np.nan), reuse="none")[1])).all()


@pytest.mark.parametrize("reuse", few(["none", "difference"]))
@pytest.mark.parametrize("central", [False, True])
def test_a_box_is_asked_what_the_estimate_costs(central, reuse):
    box = dz.black_box(lambda p: float(returns(p)), (), batched=False, dtype="float64")
    settings = {"num_directions": 5, "central": central, "reuse": reuse, "ranked": True}
    vg = dz.value_and_grad(box, dz.rge(smoothing=1e-2, batch_size=4, **settings))
    _, grads = jax.jit(vg)(PARAMS, key=KEY)
    assert box.num_samples == (11 if central else 6) == vg.samples_asked(PARAMS)
    assert np.isfinite(flatten(grads)).all()


def test_a_direction_without_an_answer_has_no_place():
    def fails(u):
        if u[0] > 1.005:
            raise FloatingPointError("diverged")
        return (u**2).sum()

    box = dz.black_box(fails, (), batched=False, dtype="float64", on_failure="nan", backoff=0.0)
    settings = {"smoothing": 1e-2, "num_directions": 40, "reuse": "none"}
    before = slopes_dropped()
    grads = dz.value_and_grad(box, dz.rge(ranked=True, **settings))(jnp.ones(2), key=KEY)[1]
    jax.effects_barrier()
    dropped = slopes_dropped() - before
    assert dropped == box.num_dropped > 0
    # As places among the others alone.
    points, _ = dz.ask(dz.rge(**settings), jnp.ones(2), KEY)
    moved = points[1:][points[1:, 0] <= 1.005]
    assert len(moved) == 40 - dropped
    places = (rankdata((moved**2).sum(1)) - 1) / (len(moved) - 1) - 0.5
    np.testing.assert_allclose(grads, places @ (moved - 1) / 1e-4 / 40, rtol=1e-3)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least two moved losses"):
        dz.rge(ranked=True, num_directions=1)
    dz.rge(ranked=True, num_directions=1, central=True)
    with pytest.raises(ValueError, match="ranked=True is of a loss"):
        dz.differentiable(jnp.sin, dz.rge(ranked=True))
    _, tell = dz.ask(dz.rge(ranked=True, num_directions=2), jnp.ones(2), KEY)
    tell([1.0, np.inf, 0.0])
    for bad in ([np.inf, 1.0, 0.0], [1.0, np.nan, 0.0]):
        with pytest.raises(ValueError, match="losses must be"):
            tell(bad)


FOUR = """
import jax, json, numpy as np
jax.config.update("jax_enable_x64", True)
import deepzero_jax as dz
from deepzero_jax.sharding import make_mesh, replicate
from tests.estimators.test_ranks import PARAMS, returns
from tests.problems import flatten

found = {}
for central in (False, True):
    for reuse in ("difference", "none"):
        for devices in (1, 4):
            settings = {"num_directions": 7, "central": central, "reuse": reuse}
            estimator = dz.rge(smoothing=1e-2, ranked=True, **settings)
            mesh = make_mesh(devices)
            vg = jax.jit(dz.value_and_grad(returns, dz.sharded(estimator, mesh)))
            grads = vg(*replicate((PARAMS,), mesh), key=jax.random.key(3))[1]
            found[f"{central} {reuse} {devices}"] = flatten(jax.device_get(grads)).tolist()
print(json.dumps(found))
"""


@long
def test_places_are_among_the_losses_of_all_devices():
    found = on_devices(4, FOUR)
    for name in {name.rsplit(" ", 1)[0] for name in found}:
        np.testing.assert_allclose(found[f"{name} 4"], found[f"{name} 1"], rtol=1e-9)
