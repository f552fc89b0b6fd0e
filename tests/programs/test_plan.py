"""What ``--plan`` says, and what it leaves alone."""

import json
import re
from dataclasses import replace

import jax
import pytest

import deepzero_jax as dz
import prune
import train
from deepzero_jax.applications.classification import build, choose_sampler, outlook
from deepzero_jax.applications.classification.config import Pruning, Sampling
from deepzero_jax.applications.classification.scoring import Scoring
from deepzero_jax.cost import multiply_adds
from deepzero_jax.training import tree_digest
from tests.conftest import ROOT
from tests.marks import few, long
from tests.records.tiny import get_config
from tests.runs import TINY
from tests.runs import call as call_program


def call(main, *arguments):
    """Runs a program with the tiny record; its exit status."""
    return call_program(main, *TINY, *arguments)


@pytest.mark.parametrize("budget", ["layer ratios", "1 s"])
def test_price_aware_plan_shows_prices_and_rates(budget, capsys, tmp_path):
    arguments = ["--plan", "--config.sampling.name=price_aware", f"--workdir={tmp_path}/run"]
    assert call(train.main, *arguments, f"--config.sampling.budget={budget}") == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("leaf"))
    assert lines[head].split()[-3:] == ["price", "rate", "share"]
    shares = [float(line.split()[-2]) for line in lines[head + 1 :] if line.endswith(" %")]
    assert sum(shares) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("sampling", ["blocks", "price_aware"])
def test_a_sparsity_that_no_sampler_asks_for_is_told(sampling, capsys, tmp_path):
    told = {
        "blocks": "sampling blocks takes no layer ratios: pruning.sparsity=0.5 has no effect",
        "price_aware": "sampling price_aware, budget '50 %', takes no layer ratios: "
        "pruning.sparsity=0.5 has no effect",
    }[sampling]
    budget = "50 %" if sampling == "price_aware" else "layer ratios"
    drawn = [f"--config.sampling.name={sampling}", f"--config.sampling.budget={budget}"]
    assert call(train.main, *drawn, "--plan") == 0
    assert f"\npruning       {told}\n" in capsys.readouterr().out
    config = replace(get_config(), sampling=Sampling(name=sampling, budget=budget))
    lines = []
    choose_sampler(build(config), tmp_path, lines.append)
    assert lines == [told]
    choose_sampler(build(replace(config, pruning=Pruning())), tmp_path, lines.append)
    assert lines == [told]


NO_EFFECT = {
    "estimator.name=first_order estimator.central=true": (
        "estimator.smoothing=0.001, estimator.central=True have no effect with estimator "
        "first_order"
    ),
    "estimator.num_directions=5 estimator.distribution=sphere": (
        "estimator.num_directions=5, estimator.distribution=sphere have no effect with estimator "
        "cge"
    ),
    "optimizer.name=adam optimizer.weight_decay=0.1 optimizer.nesterov=true": (
        "optimizer.nesterov=True, optimizer.weight_decay=0.1 have no effect with optimizer adam"
    ),
    "optimizer.name=optax:adam optimizer.nesterov=true optimizer.momentum=0.5": (
        "optimizer.momentum=0.5 has no effect with optimizer optax:adam"
    ),
    "pruning.sparsity=0 pruning.mask=weights": (
        "pruning.mask=weights has no effect at pruning.sparsity=0, where every step is dense"
    ),
    "pruning.sparsity=0 sampling.coherence=0.5": (
        "sampling.coherence=0.5 has no effect at pruning.sparsity=0, where every step is dense"
    ),
    "estimator.chunk_size=4 optimizer.momentum=0.5 pruning.mask=weights": None,
}


@pytest.mark.parametrize(("fields", "told"), NO_EFFECT.items(), ids=str)
def test_a_setting_without_effect_is_told(fields, told, capsys, tmp_path):
    arguments = [f"--config.{field}" for field in fields.split()]
    assert call(train.main, *arguments, "--plan", f"--workdir={tmp_path}") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "no effect" in line]
    assert lines == ([f"settings      {told}"] if told else [])
    arguments.append("--config.training.num_steps=1")
    if "first_order" in fields:
        assert call(train.main, *arguments, f"--workdir={tmp_path}") == 0
        assert f"\n{told}\n" in "\n" + capsys.readouterr().out


def test_plan_stops_there(capsys, tmp_path):
    assert call(train.main, f"--workdir={tmp_path}", "--plan") == 0
    output = capsys.readouterr().out
    assert "queries a" not in output
    assert "a step × 400 steps + 10 for pruning" in output
    assert not list(tmp_path.iterdir())


def test_a_plan_scores_nothing_and_takes_the_ratios_that_are_there(capsys, tmp_path, monkeypatch):
    from deepzero_jax.applications.classification import ratios

    def never(*arguments):
        raise AssertionError("a plan scores nothing")

    with monkeypatch.context() as forbidding:
        forbidding.setattr(ratios.Scoring, "scores", never)
        for mask in ("gradient", "weights"):
            arguments = ["--plan", f"--workdir={tmp_path}", f"--config.pruning.mask={mask}"]
            assert call(train.main, *arguments) == 0
            output = capsys.readouterr().out
            assert "zo_grasp is scored before the first step: 10 queries, about " in output
            assert "random scores" in output
            assert "(estimated: " in output
    assert call(prune.main, f"--workdir={tmp_path}") == 0
    kept = json.loads((tmp_path / "ratios.json").read_text())["ratios"]["block1_conv/kernel"]
    capsys.readouterr()
    assert call(train.main, f"--workdir={tmp_path}", "--plan") == 0
    output = capsys.readouterr().out
    assert "layer ratios of the run folder" in output
    assert f"{round(18 * (1 - kept))} of 18" in output


def test_a_plan_of_many_days_says_what_that_means(capsys, tmp_path):
    arguments = [f"--workdir={tmp_path}", "--plan", "--config.training.num_steps=2000000000"]
    assert call(train.main, *arguments) == 0
    output = capsys.readouterr().out
    assert "this means" in output
    assert "a second, " in output
    for name, words in outlook.SHORT_RECORDS.items():
        assert f"{name} ({words})" in output
        # Said once more where it was measured.
        assert words.removesuffix(" on two CPU cores") in (ROOT / name).read_text()


@long
def test_scoring_tells_how_many_queries_are_done_and_gives_the_same_scores(tmp_path):
    experiment = build(get_config())
    told = []
    scoring = Scoring.of(experiment)
    watched = scoring.scores(told.append)
    jax.effects_barrier()
    assert sum(told) == scoring.num_queries == 10
    silent = scoring.scores()
    assert sum(told) == 10
    assert tree_digest(watched) == tree_digest(silent)


@pytest.mark.parametrize(
    "changes",
    few(
        [
            {"estimator.name": "first_order"},
            {"estimator.smoothing": "auto", "estimator.reuse": "none"},
            {"estimator.name": "rge", "estimator.num_directions": 5},
            {"estimator.reuse": "none"},
            {"estimator.reuse": "split"},
            {"pruning.sparsity": 0.0},
        ],
        2,
    ),
    ids=str,
)
def test_every_estimator_has_a_plan_with_a_time(changes, capsys, tmp_path):
    arguments = [f"--config.{name}={value}" for name, value in changes.items()]
    assert call(train.main, f"--workdir={tmp_path}/run", "--plan", *arguments) == 0
    output = capsys.readouterr().out
    assert "a step (estimated: " in output
    assert ("zo_grasp is scored" in output) == ("pruning.sparsity" not in changes)
    assert ("to be probed before the first step" in output) == ("auto" in changes.values())
    assert not list(tmp_path.iterdir())


@long
def test_a_plan_counts_the_coordinate_that_unbiased_leaves_keep(capsys, tmp_path):
    fields = ["pruning.sparsity=0.99", "pruning.scores=random", "sampling.unbiased=true"]
    arguments = [f"--config.{field}" for field in (*fields, "training.num_steps=1")]
    assert call(train.main, *arguments, "--plan", f"--workdir={tmp_path}") == 0
    planned = re.search(r"queries +(\d+) a step", capsys.readouterr().out)[1]
    assert call(train.main, *arguments, f"--workdir={tmp_path}") == 0
    assert json.loads((tmp_path / "summary.json").read_text())["num_queries"] == int(planned)


@long
@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_multiply_adds_of_directions_are_those_of_the_program_of_a_step(reuse, tmp_path):
    config = get_config()
    estimator = replace(
        config.estimator, name="rge", reuse=reuse, num_directions=8, chunk_size=8, smoothing=1e-3
    )
    experiment = build(replace(config, estimator=estimator))
    planned = outlook.plan_run(experiment, tmp_path, lambda line: None).multiply_adds
    task, key = experiment.task, jax.random.key(0)
    batch = jax.eval_shape(task.batch, task.data, key, jax.numpy.int32(0))
    vg = dz.value_and_grad(task.loss, experiment.estimator, has_aux=True)
    step = lambda params, state, batch, key: vg(params, state, *batch, key=key)
    counted = multiply_adds(step, experiment.params, experiment.model_state, batch, key)
    assert planned == pytest.approx(counted, rel=0.1)
