"""Seconds of a step from a few of its leaves, against a step that is run."""

import time

import jax
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification import build, optimizer_and_schedule
from deepzero_jax.applications.classification.config import Config, Data, Estimator, Model
from deepzero_jax.sampling import dense_sampler
from deepzero_jax.training import TrainStep, expected_counts, forecast
from deepzero_jax.training.forecasting import Seconds, interpolated, timed_leaves
from tests.marks import few, thorough


def small_run(estimator):
    model = Model("cnn2", 12)
    experiment = build(Config(model=model, data=Data("digits", batch_size=64), estimator=estimator))
    optimizer, _ = optimizer_and_schedule(experiment)
    params = experiment.params
    step = TrainStep(experiment.task, experiment.estimator, optimizer, dense_sampler(params))
    return step, step.init(jax.random.key(0), params, experiment.model_state)


def measured_seconds(step, state):
    compiled = step.compile(state)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(compiled.run(state))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@thorough
def test_a_forecast_is_within_a_factor_of_three_of_a_step_of_a_small_cnn(tell):
    step, state = small_run(Estimator())
    loss = step.loss(state, step.task.data)
    costs = dz.coordinate_costs(loss.fun, state.params, *loss.args, has_aux=True)
    counts = expected_counts(step, state)
    assert sum(counts.values()) == 1606
    found = forecast(step, state, counts, costs)
    assert found.num_timed <= 6 < len(counts)
    seconds, measured = found.step(counts), measured_seconds(step, state)
    tell(f"forecast {seconds}, measured {measured:.3g} s")
    assert seconds.least <= seconds.likely <= seconds.most
    assert measured / 3 < seconds.likely < 3 * measured


@pytest.mark.parametrize(
    "estimator", few([Estimator("first_order"), Estimator("rge", num_directions=100)]), ids=str
)
def test_estimators_without_coordinates_are_forecast_too(estimator, tell, monkeypatch):
    monkeypatch.setattr("deepzero_jax.training.forecasting._SHORT", 0.0)
    step, state = small_run(estimator)
    found = forecast(step, state, expected_counts(step, state), {})
    seconds, measured = found.step(expected_counts(step, state)), measured_seconds(step, state)
    tell(f"forecast {seconds}, measured {measured:.3g} s")
    assert measured / 3 < seconds.likely < 3 * measured


def test_between_timed_leaves_seconds_grow_with_the_price():
    exactly = lambda seconds: Seconds(seconds, seconds, seconds)
    costs = {"a": 10.0, "b": 100.0, "c": 55.0, "d": 200.0, "e": 5.0, "f": 0.0}
    found = interpolated({"a": exactly(2.0), "b": exactly(11.0)}, costs)
    assert found["a"] == exactly(2.0)
    # Either rate, 0.2 or 0.11 by price, but no more than the dearer leaf.
    assert found["c"] == pytest.approx((6.5, 6.05, 11.0))
    assert found["d"] == pytest.approx((22.0, 22.0, 22.0))
    assert found["e"] == pytest.approx((1.5, 1.0, 2.0))
    assert found["f"] == pytest.approx((1.0, 0.0, 2.0))


def test_the_timed_leaves_span_the_prices_and_hold_the_many_cheap_ones():
    rng = np.random.default_rng(0)
    costs = {f"leaf{i}": float(10.0**i) for i in range(12)}
    counts = {path: int(rng.integers(10, 20)) for path in costs}
    counts["leaf2"] = 10**6
    counts["leaf11"] = 0
    chosen = timed_leaves(counts, costs)
    assert len(chosen) <= 6
    assert "leaf10" in chosen
    assert "leaf2" in chosen
    assert "leaf11" not in chosen
    assert chosen == sorted(chosen, key=lambda path: costs[path])
