"""Prices of coordinates, and prices against the clock."""

import functools

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

import deepzero_jax as dz
import train
from benchmarks.engine import RESULTS, problem
from deepzero_jax.applications.classification import build, prepare_run, sampling
from deepzero_jax.coordinates import (
    all_coordinates,
    coordinates_per_leaf,
    kept_per_leaf,
    leaf_paths,
)
from deepzero_jax.training import coordinate_seconds, read_metrics
from studies.report.committed import chosen, results
from studies.runner import configured
from tests.conftest import ROOT
from tests.marks import long


@pytest.mark.slow
def test_costs_rank_the_leaves_of_the_deepest_cnn_as_seconds_do():
    fun, params, args = problem("cnn5")
    costs = dz.coordinate_costs(fun, params, *args, has_aux=True)
    vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-4), has_aux=True))
    # Small leaves many times over: one pass through them would be lost in the noise.
    coordinates = jax.tree.map(lambda i: np.resize(i, max(i.size, 2048)), all_coordinates(params))
    compiled = vg.lower(params, *args, coordinates=coordinates).compile()
    run = lambda part: compiled(params, *args, coordinates=part)
    _, seconds = coordinate_seconds(run, params, coordinates)
    rank = spearmanr([costs[path] for path in costs], [seconds[path] for path in costs])[0]
    print({path: (costs[path], 1e3 * seconds[path]) for path in costs})
    assert rank >= 0.95


@functools.cache
def resnet20_costs():
    """Parameters of ResNet-20, and multiply-adds of a coordinate an image."""
    fun, params, (variables, images, labels) = problem("resnet20")
    costs = dz.coordinate_costs(fun, params, variables, images[:4], labels[:4], has_aux=True)
    return params, {path: cost / 4 for path, cost in costs.items()}


def test_costs_rank_the_leaves_of_resnet20_as_the_benchmark_measured_them():
    _, costs = resnet20_costs()
    leaves = chosen(results("engine", RESULTS), model="resnet20")[0]["summary"]["leaves"]
    rank = spearmanr(
        [costs[path] for path in leaves], [leaf["milliseconds"] for leaf in leaves.values()]
    )[0]
    print(f"Spearman {rank:.4f}")
    assert rank >= 0.95


def test_costs_of_resnet20_are_those_that_the_docs_name():
    _, costs = resnet20_costs()
    assert costs["stem_conv/kernel"] == pytest.approx(38e6, rel=0.02)
    assert costs["stage3_block3_conv1/kernel"] == pytest.approx(50e3, rel=0.02)
    assert costs["stage3_block3_conv2/kernel"] == pytest.approx(340, rel=0.02)


def test_padding_is_little_of_a_sparse_resnet20_step_on_eight_devices():
    params, costs = resnet20_costs()
    ratios = dz.layer_ratios(dz.random_scores(jax.random.key(0), params), 0.9)
    counts = kept_per_leaf(params, ratios)
    work = sum(counts[path] * costs[path] for path in costs)
    padded = sum(-(-counts[path] // 8) * 8 * costs[path] for path in costs)
    print(f"padding {padded / work - 1:.2%}")
    assert padded <= 1.01 * work


@long
def test_measured_prices_are_corrected_by_a_step_of_their_plan(monkeypatch, tmp_path):
    # A machine on which a coordinate takes 2 ms when its leaf runs alone, 1 ms in a whole step.
    changes = {"sampling.name": "price_aware", "sampling.budget": "0.3 s"}
    experiment = build(configured("quickstart", changes))

    def alone(run, params, coordinates):
        return 0.1, dict.fromkeys(leaf_paths(params), 2e-3)

    def together(run, params, coordinates, estimator, loss):
        counts = coordinates_per_leaf(params, coordinates)
        return 0.1 + 1e-3 * sum(counts.values())

    monkeypatch.setattr(sampling, "coordinate_seconds", alone)
    monkeypatch.setattr(sampling, "step_seconds", together)
    prepared = prepare_run(experiment, tmp_path, log=lambda _: None)
    state = prepared.begin(prepared.state)
    np.testing.assert_allclose(state.sampler_state.costs, 1e-3, rtol=1e-5)
    assert float(state.sampler_state.budget) == pytest.approx(0.2)


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.parametrize("model", ["cnn1", "cnn2"])
def test_a_budget_in_seconds_is_met(model, tmp_path):
    # About half of it is left for coordinates after the base pass.
    budget = {"cnn1": 0.25, "cnn2": 0.6}[model]
    arguments = ["--config", str(ROOT / "configs/cnn_cifar10.py"), f"--workdir={tmp_path}/run"]
    changes = {
        "model.name": model,
        "sampling.name": "price_aware",
        "sampling.budget": f"{budget} s",
        "training.num_steps": 20,
    }
    arguments += [f"--config.{name}={value}" for name, value in changes.items()]
    assert train.main(arguments) == 0
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    seconds = [record["seconds"] for record in records if "seconds" in record]
    assert np.median(seconds) == pytest.approx(budget, rel=0.15)
