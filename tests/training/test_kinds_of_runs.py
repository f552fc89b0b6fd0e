import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.models import CNN
from deepzero_jax.sampling import block_sampler, dense_sampler, price_aware_sampler
from deepzero_jax.training import (
    InterruptedRunError,
    RunFolderError,
    StepFailedError,
    Task,
    TrainStep,
    classification_task,
    learning_rate_schedule,
    make_optimizer,
    train,
)
from deepzero_jax.training.metrics import read_metrics
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


def judged(plant, judge):
    """A task whose evaluation asks another box than its loss."""
    x = jnp.ones((10, 4))
    return Task(
        init=lambda key: ({"a": jnp.ones((4, 5)), "b": jnp.ones(1)}, ()),
        loss=lambda p, s, x: (jnp.mean(plant(x @ p["a"] + p["b"]) ** 2), (s, {})),
        data=x,
        batch=lambda data, key, step: (data,),
        evaluate=lambda p, s, data: {"test_loss": float(jnp.mean(judge(data @ p["a"])))},
        steps_per_epoch=2,
        score="test_loss",
        higher_is_better=False,
    )


def judged_run(folder, task, sampler=None, num_steps=8, lines=None):
    schedule = learning_rate_schedule("constant", 0.01, num_steps)
    params, state = task.init(jax.random.key(0))
    sampler = sampler or dense_sampler(params)
    step = TrainStep(task, dz.cge(smoothing=1e-2), make_optimizer("sgd", schedule), sampler)
    state = step.init(jax.random.key(0), params, state)
    log = ([] if lines is None else lines).append
    return train(step, state, folder=folder, num_steps=num_steps, schedule=schedule, log=log)


def test_a_budget_of_a_box_that_only_the_evaluation_asks_holds_over_a_resume(tmp_path):
    asked, lines = [], []

    def process(**fields):
        host = lambda x: (asked.append(len(x)), x.sum(1))[1]
        judge = dz.black_box(host, (), budget=25)
        task = judged(dz.black_box(np.tanh, (5,)), judge)
        task = task._replace(boxes=(judge,)) if fields else task
        with pytest.raises(StepFailedError, match=r"the budget of 25 .* 10 more after 20"):
            judged_run(tmp_path, task, lines=lines)

    process(boxes=True)
    process(boxes=True)
    assert sum(asked) == 20
    assert not any("Task.boxes" in line for line in lines)


def test_a_box_that_only_the_evaluation_asks_leaves_the_steps_to_be_timed(tmp_path):
    judge, lines = dz.black_box(lambda x: x.sum(1), ()), []
    task = judged(lambda x: jnp.tanh(x), judge)._replace(boxes=(judge,))
    judged_run(tmp_path, task, lines=lines)
    assert any("a step (measured)" in line for line in lines)
    assert judge.num_samples == 4 * 10


def test_a_box_of_the_evaluation_that_the_task_does_not_name_is_told_once(tmp_path):
    lines = []
    task = judged(dz.black_box(np.tanh, (5,)), dz.black_box(lambda x: x.sum(1), ()))
    judged_run(tmp_path, task, lines=lines)
    assert sum("name it in Task.boxes" in line for line in lines) == 1


@pytest.mark.parametrize("kind", ["blocks", "price_aware"])
def test_no_step_sends_more_than_the_plan_says(kind, tmp_path):
    params = {"a": jnp.ones((4, 5)), "b": jnp.ones(1)}
    prices = {"a": 1.0, "b": 15.0}
    sampler = {
        "blocks": lambda: block_sampler(params, 20),
        "price_aware": lambda: price_aware_sampler(params, prices, budget=8.0),
    }[kind]()
    task, lines = judged(dz.black_box(np.tanh, (5,)), lambda x: x.sum(1)), []
    judged_run(tmp_path, task, sampler, num_steps=20, lines=lines)
    (told,) = [
        re.search(r"a draw takes at most ([\d,]+)", line) for line in lines if "box " in line
    ]
    sent = [
        line["box_samples"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line
    ]
    assert max(sent) <= int(told[1].replace(",", "")) <= 220


@pytest.mark.parametrize("content", ["{}", '{"samples": 3}', '{"samples": {}, "boxes": 3}'])
def test_counts_that_are_none_are_told_in_one_line(content, tmp_path):
    task = judged(dz.black_box(np.tanh, (5,)), lambda x: x.sum(1))
    (tmp_path / "asked.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"asked\.json does not hold what was asked; move it"):
        judged_run(tmp_path, task)
    assert (tmp_path / "asked.json").read_text() == content
