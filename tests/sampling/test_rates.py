import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.coordinates import coordinates_per_leaf, leaf_paths
from deepzero_jax.cost import multiply_adds
from deepzero_jax.estimators import estimator_costs
from deepzero_jax.sampling import layer_ratio_sampler, price_aware_sampler, sampling_rates
from tests.problems import network_loss, quadratic, quadratic_problem


def random_problem(seed, num_leaves=12):
    rng = np.random.default_rng(seed)
    draw = lambda low, high: dict(
        zip(map(str, range(num_leaves)), 10 ** rng.uniform(low, high, num_leaves), strict=True)
    )
    costs, moments = draw(2, 8), draw(-12, -3)
    sizes = {path: int(n) for path, n in draw(1, 4).items()}
    dense = sum(sizes[p] * costs[p] for p in costs)
    return costs, moments, sizes, dense * 10 ** rng.uniform(-3, -0.05)


def by_bisection(costs, moments, sizes, budget):
    paths = list(costs)
    c, v, n = (np.array([values[p] for p in paths]) for values in (costs, moments, sizes))
    low, high = 0.0, 1e30
    for _ in range(400):
        kappa = np.sqrt(max(low, 1e-30) * high)
        over = np.sum(n * c * np.minimum(1, kappa * np.sqrt(v / c))) > budget
        low, high = (low, kappa) if over else (kappa, high)
    return dict(zip(paths, np.minimum(1, low * np.sqrt(v / c)), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_rates_meet_the_budget_share_one_kappa_and_agree_with_bisection(seed):
    costs, moments, sizes, budget = random_problem(seed)
    rates = jax.jit(dz.sampling_rates)(costs, moments, sizes, budget)
    price = sum(sizes[p] * costs[p] * float(rates[p]) for p in costs)
    assert price == pytest.approx(budget, rel=1e-4)
    kappas = [
        float(rates[p]) / np.sqrt(moments[p] / costs[p]) for p in costs if 0 < rates[p] < 1 - 1e-6
    ]
    assert kappas
    np.testing.assert_allclose(kappas, kappas[0], rtol=1e-4)
    expected = by_bisection(costs, moments, sizes, budget)
    for path, rate in rates.items():
        assert float(rate) == pytest.approx(expected[path], rel=1e-3)


def test_no_other_rates_of_the_same_price_have_less_variance():
    costs, moments, sizes, budget = random_problem(3)
    rates = {p: float(r) for p, r in dz.sampling_rates(costs, moments, sizes, budget).items()}
    variance = lambda rho: sum(sizes[p] * moments[p] * (1 / rho[p] - 1) for p in costs)
    best = variance(rates)
    rng = np.random.default_rng(0)
    for _ in range(200):
        other = {p: min(1.0, r * np.exp(0.3 * rng.normal())) for p, r in rates.items()}
        price = sum(sizes[p] * costs[p] * other[p] for p in costs)
        if price <= budget:
            assert variance(other) >= best * (1 - 1e-5)


def test_edges_of_the_rates():
    sizes = {"a": 10, "b": 10}
    both = lambda rates: [round(float(rates[p]), 4) for p in ("a", "b")]
    assert both(sampling_rates({"a": 1, "b": 0}, {"a": 1, "b": 1}, sizes, 5)) == [0.5, 1.0]
    assert both(sampling_rates({"a": 1, "b": 1}, {"a": 1, "b": 0}, sizes, 5)) == [0.5, 0.0]
    assert both(sampling_rates({"a": 1, "b": 1}, {"a": 0, "b": 0}, sizes, 5)) == [0.25, 0.25]
    assert both(sampling_rates({"a": 1, "b": 1}, {"a": 1, "b": 0}, sizes, 20)) == [1.0, 1.0]
    assert both(sampling_rates({"a": 1, "b": 9}, {"a": 1e-30, "b": 9e-30}, sizes, 50)) == [0.5] * 2
    assert dz.sampling_rates({}, {}, {}, 1.0) == {}
    with pytest.raises(ValueError, match="budget must be positive"):
        sampling_rates({"a": 1}, {"a": 1}, {"a": 1}, 0)
    with pytest.raises(ValueError, match="sizes and costs must name the same leaves"):
        sampling_rates({"a": 1}, {"a": 1}, {"b": 1}, 1)


def test_costs_are_those_of_the_delta():
    fun, params, args = network_loss("cnn1")
    costs = dz.coordinate_costs(fun, params, *args, has_aux=True)
    assert list(costs) == leaf_paths(params)
    # A scalar of the classifier moves one logit; one of the convolution, a channel of the rest.
    assert costs["classifier/bias"] < costs["classifier/kernel"] < costs["block1_conv/kernel"]
    assert costs["block1_norm/scale"] < costs["block1_conv/kernel"]


def test_costs_are_the_same_on_every_platform(monkeypatch):
    fun, params, args = network_loss("cnn3")
    here = dz.coordinate_costs(fun, params, *args, has_aux=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert dz.coordinate_costs(fun, params, *args, has_aux=True) == here


def test_estimates_are_unbiased_leaf_by_leaf():
    params, target = quadratic_problem()
    costs = dict(zip(leaf_paths(params), [3.0, 1.0, 5.0, 2.0], strict=True))
    sampler = price_aware_sampler(params, costs, budget=20.0)
    state = sampler.init(jax.random.key(0))
    vg = dz.value_and_grad(quadratic, dz.cge(smoothing=1e-4))
    dense = vg(params, target)[1]

    @jax.jit
    def estimate(step):
        selection = sampler.sample(state, step)
        grads = vg(params, target, coordinates=selection.coordinates)[1]
        return jax.tree.map(jnp.multiply, grads, selection.scales), selection.coordinates

    draws, prices = [], []
    for step in range(600):
        grads, coordinates = estimate(step)
        draws.append(grads)
        counts = coordinates_per_leaf(params, coordinates)
        prices.append(sum(counts[path] * costs[path] for path in costs))
    assert estimate._cache_size() == 1
    assert len({int(p) for p in prices}) > 1
    error = 3 * np.std(prices) / np.sqrt(len(prices))
    assert abs(np.mean(prices) - 20.0) < max(error, 0.4)
    for path, exact, leaf in zip(
        costs, jax.tree.leaves(dense), zip(*map(jax.tree.leaves, draws), strict=True), strict=True
    ):
        values = np.stack(leaf)
        spread = np.linalg.norm(np.std(values, axis=0)) / np.sqrt(len(values))
        assert np.linalg.norm(values.mean(0) - exact) <= 3 * spread + 1e-6, path


def test_second_moments_follow_the_estimates():
    params = {"a": jnp.zeros(100), "b": jnp.zeros(50)}
    sampler = price_aware_sampler(params, {"a": 1.0, "b": 1.0}, budget=60.0, decay=0.5)
    state = sampler.init(jax.random.key(0))
    for step in range(8):
        selection = sampler.sample(state, jnp.int32(step))
        true = {"a": jnp.full(100, 0.1), "b": jnp.full(50, 1.0)}
        taken = jax.tree.map(
            lambda g, i: jnp.zeros_like(g).at[i].set(g[0], mode="drop"),
            true,
            selection.coordinates,
        )
        state = sampler.update(state, selection, taken)
    np.testing.assert_allclose(state.second_moments, [0.01, 1.0], rtol=1e-5)
    shares = sampler.spending(state)
    assert shares["b"].rate == pytest.approx(1.0)
    assert shares["a"].rate == pytest.approx(0.1, abs=0.01)
    assert sum(share.share for share in shares.values()) == pytest.approx(1.0)


def test_a_leaf_that_was_flat_is_looked_at_again():
    params = {"a": jnp.zeros(1000), "b": jnp.zeros(1000)}
    sampler = price_aware_sampler(params, {"a": 1.0, "b": 1.0}, budget=200.0)
    state = sampler.init(jax.random.key(0))._replace(second_moments=jnp.array([1.0, 0.0]))
    counts = coordinates_per_leaf(params, sampler.sample(state, 0).coordinates)
    assert counts["b"] >= 1


def test_huge_estimates_of_one_step_do_not_end_the_sampling():
    params = {"w": jnp.zeros(1000), "v": jnp.zeros(1000)}
    sampler = price_aware_sampler(params, {"w": 1.0, "v": 2.0}, 300.0)
    state = sampler.init(jax.random.key(0))
    for step, slope in enumerate([1.5e18, 1.0, 1.0]):
        chosen = jax.jit(sampler.sample)(state, jnp.int32(step))
        counts = jax.tree.map(lambda i: jnp.sum(i < 1000), chosen.coordinates)
        assert counts["w"] + 2 * counts["v"] == pytest.approx(300, abs=3)
        grads = jax.tree.map(lambda n, slope=slope: jnp.full(n, slope), counts)
        state = sampler.update(state, chosen, grads)
    assert jnp.max(state.second_moments) < 1.9e36  # it follows the smaller ones


def test_unbiased_layer_ratios_scale_by_the_rate():
    params = {"a": jnp.zeros(10), "b": jnp.zeros(4)}
    plain = layer_ratio_sampler(params, {"a": 0.8}, 1)
    assert plain.sample(plain.init(jax.random.key(0)), 0).scales is None
    scaled = layer_ratio_sampler(params, {"a": 0.8}, 1, unbiased=True)
    scales = scaled.sample(scaled.init(jax.random.key(0)), 0).scales
    assert (float(scales["a"]), float(scales["b"])) == (5.0, 1.0)
    # A leaf that kept nothing could have no unbiased estimate: it keeps one coordinate.
    tiny = layer_ratio_sampler(params, {"a": 0.8, "b": 0.95}, 1, unbiased=True)
    chosen = tiny.sample(tiny.init(jax.random.key(0)), 0)
    assert len(chosen.coordinates["b"]) == 1
    assert float(chosen.scales["b"]) == 4.0


def test_bad_samplers_are_refused():
    params = {"a": jnp.zeros(3)}
    with pytest.raises(ValueError, match="costs and params"):
        price_aware_sampler(params, {"b": 1.0}, 1.0)
    with pytest.raises(ValueError, match="budget must be positive"):
        price_aware_sampler(params, {"a": 1.0}, 0.0)
    with pytest.raises(ValueError, match="decay"):
        price_aware_sampler(params, {"a": 1.0}, 1.0, decay=1.0)
    for number in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match=r"costs\['a'\] must be a finite number"):
            price_aware_sampler(params, {"a": number}, 1.0)
        with pytest.raises(ValueError, match=r"second_moments\['a'\] must be a finite number"):
            price_aware_sampler(params, {"a": 1.0}, 1.0, second_moments={"a": number})


def test_an_interval_longer_than_any_run_never_redraws():
    params = {"a": np.zeros(50, np.float32)}
    sampler = layer_ratio_sampler(params, {"a": 0.8}, 999_999_999 * 195)
    state = sampler.init(jax.random.key(0))
    first, last = (sampler.sample(state, jnp.int32(step)) for step in (0, 2**31 - 2))
    np.testing.assert_array_equal(first.coordinates["a"], last.coordinates["a"])


@pytest.mark.parametrize(("settings", "sides"), [({}, 1), ({"central": True}, 2)])
def test_an_estimator_is_priced_as_it_passes(settings, sides):
    params = {"first": jnp.ones((2, 3)), "last": jnp.ones((3, 5))}
    fun = lambda p, x: jnp.sum(jnp.sin(x @ p["first"]) @ p["last"])
    x = jnp.ones((4, 2))
    propagated = dz.coordinate_costs(fun, params, x)
    found = estimator_costs(dz.cge(smoothing=1e-3, **settings), fun, params, x)
    for path, cost in propagated.items():  # of two sides some operations are one
        assert (sides - 0.3) * cost <= found[path] <= sides * cost
    rge = dz.rge(num_directions=3, reuse="none", **settings)
    assert estimator_costs(rge, fun, params, x) == propagated
    whole = sides * multiply_adds(fun, params, x)
    none = estimator_costs(dz.cge(smoothing=1e-3, reuse="none", **settings), fun, params, x)
    assert none == {"first": whole, "last": whole}
    assert whole > sides * max(propagated.values())


def test_an_empty_leaf_is_free():
    fun = lambda p: jnp.sum(p["full"] ** 2) + jnp.sum(p["empty"])
    params = {"full": jnp.ones(2), "empty": jnp.zeros((0, 3))}
    assert dz.coordinate_costs(fun, params)["empty"] == 0


def test_a_budget_may_be_a_whole_number_beyond_int32():
    sizes = {"a": 4 * 10**9, "b": 3 * 10**9}
    given = sizes, {"a": 1, "b": 1}, {"a": 3, "b": 4}
    assert dz.sampling_rates(*given, 10**10) == dz.sampling_rates(*given, 1e10)


def test_a_budget_beyond_float32_takes_all_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = dz.sampling_rates({"a": 9, "b": 1}, {"a": 1, "b": 1}, {"a": 10, "b": 10}, 1e300)
        params = {"a": jnp.zeros(10), "b": jnp.zeros(10)}
        sampler = price_aware_sampler(params, {"a": 9.0, "b": 1.0}, 1e300)
        state = sampler.init(jax.random.key(0))
    assert [float(rate) for rate in rates.values()] == [1.0, 1.0]
    assert np.isfinite(state.budget)


@pytest.mark.parametrize("budget", [-1.0, np.float32(-1), jnp.float32(-1), np.float64("nan"), 0])
def test_a_budget_that_is_no_price_is_refused_whatever_its_type(budget):
    with pytest.raises(ValueError, match="budget must be positive"):
        dz.sampling_rates({"a": 1.0}, {"a": 1.0}, {"a": 5}, budget)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e39, np.float32(-1), jnp.float32(-1)])
@pytest.mark.parametrize("name", ["costs", "second_moments", "sizes"])
def test_numbers_that_give_no_rate_are_named(name, value):
    given = {key: {"a": 1.0, "b": 1.0} for key in ("costs", "second_moments", "sizes")}
    given[name]["b"] = value
    with pytest.raises(ValueError, match=rf"^{name}\['b'\] must be a finite number of at least 0"):
        dz.sampling_rates(**given, budget=1.0)
