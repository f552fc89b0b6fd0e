"""Prices against the clock: minutes, on a machine with nothing else to do."""

import json

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

import deepzero_jax as dz
import train
from benchmarks.engine import problem
from deepzero_jax.coordinates import all_coordinates
from deepzero_jax.training.metrics import read_metrics
from deepzero_jax.training.plan import coordinate_seconds
from tests.conftest import ROOT


@pytest.mark.slow
def test_costs_rank_the_leaves_of_the_deepest_cnn_as_seconds_do():
    fun, params, args = problem("cnn5")
    costs = dz.coordinate_costs(fun, params, *args, has_aux=True)
    vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-4), has_aux=True))
    coordinates = all_coordinates(params)
    compiled = vg.lower(params, *args, coordinates=coordinates).compile()
    run = lambda part: compiled(params, *args, coordinates=part)
    _, seconds = coordinate_seconds(run, params, coordinates)
    rank = spearmanr([costs[path] for path in costs], [seconds[path] for path in costs])[0]
    print({path: (costs[path], 1e3 * seconds[path]) for path in costs})
    assert rank >= 0.95


def test_costs_rank_the_leaves_of_resnet20_as_the_benchmark_measured_them():
    fun, params, (variables, images, labels) = problem("resnet20")
    costs = dz.coordinate_costs(fun, params, variables, images[:4], labels[:4], has_aux=True)
    results = json.loads((ROOT / "benchmarks/engine.json").read_text())
    leaves = next(r for r in results if r["model"] == "resnet20")["leaves"]
    rank = spearmanr(
        [costs[path] for path in leaves], [leaf["milliseconds"] for leaf in leaves.values()]
    )[0]
    assert rank >= 0.95


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.parametrize("model", ["cnn1", "cnn2"])
def test_a_budget_in_seconds_is_met(model, tmp_path):
    budget = {"cnn1": 0.15, "cnn2": 0.6}[model]
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
