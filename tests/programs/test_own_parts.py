"""A record outside the package with a network and a data set of its own."""

import json
import shutil
import sys

import pytest

import train
from tests.conftest import ROOT
from tests.runs import call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own.py", "own_parts.py"):
        shutil.copy(ROOT / "tests/records" / name, tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    import own_parts  # pyright: ignore[reportMissingImports]

    own_parts.save()
    yield tmp_path
    sys.modules.pop("own_parts", None)


def run(folder, *arguments):
    record = f"--config={folder / 'own.py'}"
    return call(train.main, record, f"--workdir={folder / 'run'}", *arguments)


def test_it_trains_and_is_finished(folder, capsys):
    assert run(folder) == 0
    summary = json.loads((folder / "run/summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    assert summary["num_queries"] == 60 * (1 + summary["num_parameters"])
    assert run(folder) == 0
    assert "already finished" in capsys.readouterr().out


PAIR = """
import flax.linen as nn, jax, jax.numpy as jnp
from typing import NamedTuple, Callable

class Pair(NamedTuple):
    init: Callable
    apply: Callable

def make_model(num_classes):
    init = lambda key, x: {"w": 0.1 * jax.random.normal(key, (x[0].size, num_classes))}
    return Pair(init, lambda params, x: x.reshape(len(x), -1) @ params["w"])

class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x.mean(axis=(1, 3))))

def dropping(num_classes):
    return Dropping()

def narrow(num_classes):
    make = lambda key, x: {"w": 0.1 * jax.random.normal(key, (x[0].size, 3), jnp.bfloat16)}
    return Pair(make, lambda params, x: x.reshape(len(x), -1) @ params["w"].astype(x.dtype))

class Shapeless(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x[:, :3, 0, 0] + self.param("w", nn.initializers.ones, (len(x), 1))

def shapeless(num_classes):
    return Shapeless()

def not_a_model(num_classes):
    return 3

def not_a_dataset():
    return [1, 2]

def not_a_rule(learning_rate):
    return 0.1
"""


def test_a_pair_of_pure_functions_trains_as_well_and_can_be_pruned(folder):
    (folder / "pair.py").write_text(PAIR)
    model, few = "--config.model.name=pair:make_model", "--config.pruning.samples_per_class=9"
    assert (
        run(folder, model, "--config.pruning.sparsity=0.5", "--config.pruning.scores=grasp", few)
        == 0
    )
    summary = json.loads((folder / "run/summary.json").read_text())
    assert summary["num_queries"] == 60 * (1 + 54)
    assert summary["test_accuracy"] > 0.9


def test_a_plan_takes_parameters_of_16_bits_whose_smoothing_is_probed(folder, capsys):
    (folder / "pair.py").write_text(PAIR)
    fields = ["model.name=pair:narrow", "estimator.reuse=none", "estimator.smoothing=auto"]
    arguments = [f"--config.{field}" for field in (*fields, "training.num_steps=1")]
    assert run(folder, *arguments, "--plan") == 0
    assert "to be probed before the first step" in capsys.readouterr().out
    assert run(folder, *arguments) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "model.name=own_parts:make_modl",
            "has no function 'make_modl', did you mean 'make_model'?",
        ),
        ("model.name=own_prts:make_model", "cannot import 'own_prts'"),
        ("model.nam=own_parts:make_model", "did you mean 'model.name'?"),
        ("data.name=own_parts:lod", "has no function 'lod'"),
        ("data.name=pair:not_a_dataset", "must be a deepzero_jax.data.Dataset, got list"),
        ("model.name=pair:not_a_model", "must be a flax.linen.Module, or have init and apply"),
        ("model.name=pair:dropping", "the model draws random numbers"),
        ("model.name=pair:shapeless", 'For parameter "w"'),
        ("model.width=3", "takes no width; leave it out"),
        ("estimator.reuse=split", "cut table"),
        ("sampling.name=own_parts:load", "must make a deepzero_jax.sampling.Sampler, got Dataset"),
        ("estimator.name=pair:not_a_dataset", "must make an estimator, got list"),
        ("optimizer.name=pair:not_a_dataset", "takes neither schedule nor learning_rate"),
        ("optimizer.name=pair:not_a_rule", "must make an optax.GradientTransformation, got float"),
    ],
)
def test_what_is_wrong_with_own_parts_is_one_line(change, words, folder, capsys):
    (folder / "pair.py").write_text(PAIR)
    more = ["--config.pruning.sparsity=0.5"] if change.startswith("sampling") else []
    assert run(folder, f"--config.{change}", *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (folder / "run/config.json").exists()


def test_debug_shows_the_traceback_behind_the_line(folder, capsys):
    assert run(folder, "--config.estimator.reuse=split", "--debug") == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.splitlines()[-1].startswith("train.py: error: ")
