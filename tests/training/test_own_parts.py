"""Training with parts of a user's own: a task, an optimiser, a sampler, a schedule."""

import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import deepzero_jax as dz
from deepzero_jax.sampling import block_sampler, dense_sampler, layer_ratio_sampler
from deepzero_jax.training import Task, TrainStep, load_trained, train

PARAMS = {"w": jnp.ones(3), "b": jnp.zeros(3)}


def inputs():
    return jax.random.normal(jax.random.key(0), (64, 3))


def loss(params, model_state, x):
    return jnp.mean((jnp.sum(jnp.sin(x * params["w"] + params["b"]), -1) - 1) ** 2), ({}, {})


def prepared(optimizer=None, sampler=None, model_state=None, **parts):
    """A step, and its state at step 0."""
    given = {
        "init": lambda key: (PARAMS, {}),
        "loss": loss,
        "data": inputs(),
        "batch": lambda data, key, step: (data[:8],),
        "evaluate": lambda params, state, data: {"test_loss": float(loss(params, {}, data)[0])},
        "steps_per_epoch": 8,
        "score": "test_loss",
        "higher_is_better": False,
    }
    task = Task(**{**given, **parts})
    optimizer = optimizer or optax.sgd(0.1)
    step = TrainStep(task, dz.cge(), optimizer, sampler or dense_sampler(PARAMS))
    return step, step.init(jax.random.key(1), PARAMS, model_state or {})


def run(folder, optimizer=None, sampler=None, schedule=0.1, lengths=None, **parts):
    Path(folder).mkdir(exist_ok=True)
    step, state = prepared(optimizer, sampler, **parts)
    lengths = {"num_steps": 2, **(lengths or {})}
    return train(step, state, folder=folder, schedule=schedule, log=lambda line: None, **lengths)


@pytest.mark.parametrize(
    "optimizer", [optax.scale(-0.1), optax.chain(optax.scale_by_adam(), optax.scale(-0.1))]
)
def test_an_optimiser_that_takes_no_mask_trains(optimizer, tmp_path):
    assert run(tmp_path, optimizer)["test_loss"] < loss(PARAMS, {}, inputs())[0]
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["learning_rate"] == pytest.approx(0.1)


READERS = {
    "plateau": lambda: optax.chain(
        optax.adam(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5)
    ),
    "polyak": optax.polyak_sgd,
}


@pytest.mark.parametrize("name", READERS)
def test_an_optimiser_that_reads_the_loss_is_told_it_and_resumes_to_the_bit(name, tmp_path):
    optimizer, params = READERS[name](), PARAMS
    state = optimizer.init(params)
    fun = lambda params: loss(params, {}, inputs()[:8])[0]
    for _ in range(4):
        value, grads = dz.value_and_grad(fun, dz.cge())(params)
        updates, state = optimizer.update(grads, state, params, value=value, grad=grads)
        params = optax.apply_updates(params, updates)
    lengths = {"num_steps": 4, "evaluation_interval": 2}
    whole = run(tmp_path / "whole", optimizer, lengths=lengths)
    run(tmp_path / "parts", optimizer, lengths={**lengths, "num_steps": 2})
    parts = run(tmp_path / "parts", optimizer, lengths=lengths)
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
    chex.assert_trees_all_close(load_trained(tmp_path / "whole").params, params, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (optax.lbfgs(), "'value_fn', the loss itself, .* queries that nobody counts; .* line"),
        (
            optax.GradientTransformationExtraArgs(
                lambda params: (),
                lambda grads, state, params=None, *, weather, **extra: (grads, ()),
            ),
            "'weather', which a step cannot give: it gives mask, value and grad",
        ),
    ],
)
def test_an_optimiser_that_wants_more_than_a_step_has_is_refused(optimizer, words):
    with pytest.raises(TypeError, match=f"^the optimizer wants {words}"):
        prepared(optimizer)


@pytest.mark.parametrize(
    "make",
    [
        dense_sampler,
        lambda params: block_sampler(params, 2),
        lambda params: layer_ratio_sampler(params, {"w": 0.5}, 1, unbiased=True),
    ],
)
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"w": jnp.ones(2)}, "leaf 'w' it has 2 numbers, the parameters have 3 numbers"),
        ({"w": jnp.ones(4)}, "leaf 'w' it has 4 numbers"),
        ({"v": jnp.ones(2)}, "leaf 'v' it has 2 numbers, the parameters have none"),
    ],
)
def test_a_sampler_of_other_parameters_is_refused(make, other, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, sampler=make({**PARAMS, **other}))


@pytest.mark.parametrize("found", [None, jnp.ones(2), {"test_loss": jnp.ones(2)}])
def test_an_evaluation_that_gives_no_numbers_by_name_is_one_line(found, tmp_path):
    with pytest.raises(ValueError, match=r"evaluate must give \{name: number\}, got "):
        run(tmp_path, evaluate=lambda params, state, data: found)


def test_an_epoch_of_no_steps_is_refused_before_any_is_made(tmp_path):
    with pytest.raises(
        ValueError, match=r"steps_per_epoch must be .* at least 1, got 0: .* a batch"
    ):
        run(tmp_path, steps_per_epoch=0)
    assert not list(tmp_path.iterdir())


def test_the_best_score_is_never_nan(tmp_path):
    found = run(tmp_path, evaluate=lambda params, state, data: {"test_loss": float("nan")})
    assert found["best_test_loss"] is None
    assert found["best_step"] is None
