import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.models import CNN
from deepzero_jax.sampling import price_aware_sampler
from deepzero_jax.training import (
    InterruptedRunError,
    StepFailedError,
    TrainStep,
    classification_task,
    learning_rate_schedule,
    make_optimizer,
)
from deepzero_jax.training.metrics import read_metrics
from tests.marks import long
from tests.runs import send_sigterm_after, tiny_dataset, tiny_run


def test_price_aware_runs_count_their_queries_and_resume_exactly(tmp_path):
    task = classification_task(CNN(depth=1, width=2, num_classes=3), tiny_dataset(), 12)
    shapes = task.init(jax.random.key(0))[0]
    costs = dict.fromkeys(leaf_paths(shapes), 1.0) | {"block1_conv/kernel": 5.0}
    sampler = price_aware_sampler(shapes, costs, budget=40.0)
    estimator = dz.cge(smoothing=1e-3)
    lines = []
    whole = tiny_run(tmp_path / "whole", estimator, sampler=sampler, lines=lines)
    assert any("price" in line and "rate" in line for line in lines)
    metrics = tmp_path / "parts/metrics.jsonl"
    killer = threading.Thread(target=send_sigterm_after, args=(metrics, 3))
    killer.start()
    with pytest.raises(InterruptedRunError):
        tiny_run(tmp_path / "parts", estimator, sampler=sampler)
    killer.join()
    parts = tiny_run(tmp_path / "parts", estimator, sampler=sampler)
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
    assert parts["num_queries"] == whole["num_queries"]
    assert whole["num_queries"] < 8 * (33 + 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_keeps_the_types_of_its_state(optimizer):
    # Scales of price-aware rates are float32.
    task = classification_task(CNN(depth=1, width=2, num_classes=3), tiny_dataset(), 12)
    params, model_state = task.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    schedule = learning_rate_schedule("constant", 0.1, 8)
    step = TrainStep(
        task,
        dz.cge(smoothing=1e-2),
        make_optimizer(optimizer, schedule),
        price_aware_sampler(params, dict.fromkeys(leaf_paths(params), 1.0), budget=9.0),
    )
    state = step.init(jax.random.key(1), params, model_state)
    moved = jax.eval_shape(step.advance, state, step.select(state), task.data)[0]
    types = lambda tree: jax.tree.map(jnp.result_type, tree)
    assert types(moved) == types(state)


@long
def test_a_box_that_fails_stops_the_run_and_the_run_goes_on_exactly(tmp_path):
    broken = []

    def host(logits):
        if broken and broken.pop():
            raise RuntimeError("the simulator is gone")
        return np.log(np.sum(np.exp(logits), axis=1, keepdims=True))

    box = dz.black_box(host, (1,), retries=0)
    estimator = dz.cge(smoothing=1e-3)

    def task_of(task):
        def loss(params, state, images, labels):
            value, aux = task.loss(params, state, images, labels)
            return value + 0.1 * jnp.mean(
                box(images[:, 0, :, 0] * params["classifier"]["bias"][0])
            ), aux

        return task._replace(loss=loss)

    whole = tiny_run(tmp_path / "whole", estimator, task_of=task_of)
    lines = []

    def break_later(line):
        lines.append(line)
        if line.startswith("step 4/8"):
            broken.append(True)

    with pytest.raises(StepFailedError, match=r"step 5 failed: call .* the simulator is gone"):
        tiny_run(tmp_path / "parts", estimator, task_of=task_of, log=break_later)
    parts = tiny_run(tmp_path / "parts", estimator, task_of=task_of)
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
    assert parts["num_queries"] == whole["num_queries"]


def boxed(box):
    def task_of(task):
        def loss(params, state, images, labels):
            value, aux = task.loss(params, state, images, labels)
            # Every parameter moves the box's inputs.
            scale = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))
            asked = box(images[:, 0, :, 0] * scale)
            return value + 0.1 * jnp.mean(asked), aux

        return task._replace(loss=loss)

    return task_of


@long
def test_a_budget_that_a_step_would_overrun_stops_before_it_and_a_larger_one_goes_on(tmp_path):
    host = lambda x: np.sum(x**2, axis=1, keepdims=True)
    estimator, sizes = dz.cge(smoothing=1e-3, reuse="none"), []
    whole_box = dz.black_box(host, (1,))
    lines = []
    whole = tiny_run(tmp_path / "whole", estimator, task_of=boxed(whole_box), lines=lines)
    # The plan asks nothing, and says beforehand what the run will.
    per_step = whole_box.num_samples // 8
    told = f"at most {per_step:,} samples a step, {8 * per_step:,} for the whole run"
    assert any(told in line for line in lines)
    assert whole["num_queries"] * 12 == whole_box.num_samples
    box = dz.black_box(lambda x: (sizes.append(len(x)), host(x))[1], (1,), budget=5 * per_step - 1)
    with pytest.raises(
        StepFailedError,
        match=f"step 5 failed: it sends {per_step:,} samples to the black box, and of the budget "
        f"of {5 * per_step - 1:,} only {per_step - 1:,} are left",
    ):
        tiny_run(tmp_path / "parts", estimator, task_of=boxed(box))
    assert sum(sizes) == box.num_samples == 4 * per_step
    larger = dz.black_box(host, (1,), budget=8 * per_step)
    parts = tiny_run(tmp_path / "parts", estimator, task_of=boxed(larger))
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
    assert larger.counts() == whole_box.counts()
    counted = {"training": 8 * per_step, "evaluation": 0, "pruning": 0, "probing": 0}
    assert parts["box_samples"] == whole["box_samples"] == counted


def test_coordinates_that_are_dropped_are_counted_step_by_step(tmp_path):
    sent = []

    def host(x):
        sent.append(len(x))
        # Of the second step one coordinate, of the third two: their whole calls fail.
        if len(sent) in (SIZE + 3, 2 * SIZE + 4, 2 * SIZE + 7):
            raise FloatingPointError("diverged")
        return np.sum(x**2, axis=1, keepdims=True)

    SIZE = 25
    box = dz.black_box(host, (1,), retries=0, on_failure="nan")
    estimator = dz.cge(smoothing=1e-3, reuse="none", batch_size=1)
    summary = tiny_run(tmp_path / "run", estimator, num_steps=4, task_of=boxed(box))
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["num_dropped"] for line in lines if "loss" in line] == [0, 1, 2, 0]
    assert summary["num_dropped"] == 3
    assert box.num_dropped == 3 * 12


def test_slopes_at_a_boundary_are_in_the_plan_and_in_the_budget(tmp_path):
    host = lambda x: np.sum(x**2, axis=1, keepdims=True)

    def run(folder, box, lines=None):
        asked = dz.differentiable(box, dz.cge(smoothing=1e-3))
        return tiny_run(folder, dz.first_order(), task_of=boxed(asked), lines=lines)

    whole_box, lines = dz.black_box(host, (1,)), []
    run(tmp_path / "whole", whole_box, lines)
    per_step = whole_box.num_samples // 8
    assert per_step > 12  # more than the samples of a batch
    told = f"at most {per_step:,} samples a step, {8 * per_step:,} for the whole run"
    assert any(told in line for line in lines)
    box = dz.black_box(host, (1,), budget=3 * per_step - 1)
    with pytest.raises(StepFailedError, match=f"step 3 failed: it sends {per_step:,} samples"):
        run(tmp_path / "parts", box)
    assert box.num_samples == 2 * per_step


@long
def test_an_evaluation_that_was_caught_up_is_not_asked_again(tmp_path):
    failing, evaluated = [], []

    def host(x):
        if failing:
            raise RuntimeError(failing.pop())
        return np.sum(x**2, axis=1, keepdims=True)

    box = dz.black_box(host, (1,), retries=0)

    def task_of(task):
        def evaluate(params, *_):
            if not evaluated:
                failing.append("gone")
            evaluated.append(params)
            return {"test_accuracy": float(jnp.sum(box(params["classifier"]["kernel"])))}

        return boxed(box)(task)._replace(evaluate=evaluate)

    def run():
        # The step behind an evaluation that was caught up fails as well.
        caught_up = lambda line: line.startswith("step 4/8") and len(evaluated) == 2
        log = lambda line: failing.append("gone again") if caught_up(line) else None
        return tiny_run(tmp_path, dz.cge(smoothing=1e-3), task_of=task_of, log=log)

    with pytest.raises(StepFailedError, match=r"the evaluation after step 4 failed: .* gone"):
        run()
    with pytest.raises(StepFailedError, match=r"step 5 failed: .* gone again"):
        run()
    found = run()
    scored = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "test_accuracy" in line]
    assert [line["step"] for line in scored] == [4, 8]
    assert len(evaluated) == 3
    assert found["best_test_accuracy"] == max(line["test_accuracy"] for line in scored)
    assert sum(found["box_samples"].values()) == box.num_samples
