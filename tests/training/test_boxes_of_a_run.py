"""What a run keeps of its black boxes, and what its plan says of them."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.sampling import block_sampler, dense_sampler, price_aware_sampler
from deepzero_jax.training import (
    RunFolderError,
    StepFailedError,
    Task,
    TrainStep,
    classification_task,
    learning_rate_schedule,
    make_optimizer,
    read_metrics,
    train,
)
from tests.runs import Pair, tiny_dataset


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

    def process():
        host = lambda x: (asked.append(len(x)), x.sum(1))[1]
        judge = dz.black_box(host, (), budget=25)
        task = judged(dz.black_box(np.tanh, (5,)), judge)._replace(boxes=(judge,))
        with pytest.raises(StepFailedError, match=r"the budget of 25 .* 10 more after 20"):
            judged_run(tmp_path, task, lines=lines)

    process()
    process()
    assert sum(asked) == 20
    assert not any("Task.boxes" in line for line in lines)


def test_what_another_process_asks_is_counted_and_is_no_box_that_nobody_named(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("deepzero_jax.training.together.sums_of", lambda c: [2 * n for n in c])
    box, lines, asked = dz.black_box(np.tanh, (5,)), [], []
    judge = lambda x: (asked.append(len(x)), jnp.sum(box(x)))[1]
    summary = judged_run(tmp_path, judged(box, judge), lines=lines)
    assert not any("Task.boxes" in line for line in lines)
    assert sum(summary["box_samples"].values()) == box.num_samples
    assert summary["box_samples"]["evaluation"] == 2 * sum(asked)


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


def written(folder, plant, file, session=7, **counts):
    """A file of counts as a run of several processes leaves it."""
    groups = {
        name: [
            {"training": number, "evaluation": 0, "pruning": 0, "probing": 0},
            {**dict.fromkeys(plant.counts(), 0), "num_samples": number},
        ]
        for name, number in counts.items()
    }
    if all_of_them := groups.pop("all", None):
        groups |= {"samples": all_of_them[0], "boxes": [{**all_of_them[1], "budget": None}]}
    (folder / file).write_text(json.dumps({"session": session, **groups}))


def test_what_others_wrote_down_and_the_lead_was_not_told_is_counted_once(tmp_path):
    plant = dz.black_box(np.tanh, (5,))
    task = judged(plant, lambda x: x.sum(1))
    written(tmp_path, plant, "asked.json", all=100, told=30)
    written(tmp_path, plant, "asked.1.json", own=20)
    written(tmp_path, plant, "asked.2.json", own=25)
    written(tmp_path, plant, "asked.3.json", own=1_000, session=6)  # known when this one began
    summary = judged_run(tmp_path, task)
    now = judged_run(tmp_path / "another", task)["box_samples"]["training"]
    assert summary["box_samples"]["training"] == 100 + (20 + 25 - 30) + now
    again = json.loads((tmp_path / "asked.json").read_text())
    assert again["boxes"][0]["num_samples"] == summary["box_samples"]["training"]
    assert "session" not in again


def test_a_file_of_another_process_that_holds_no_counts_is_named(tmp_path):
    plant = dz.black_box(np.tanh, (5,))
    written(tmp_path, plant, "asked.json", all=100, told=30)
    (tmp_path / "asked.1.json").write_text('{"session": 7, "own": [3]}')
    with pytest.raises(RunFolderError, match=r"asked\.1\.json does not hold what was asked; move"):
        judged_run(tmp_path, judged(plant, lambda x: x.sum(1)))


@pytest.mark.parametrize("num_test", [21, 1003])
def test_an_evaluation_asks_a_box_for_each_test_image_once(num_test):
    small = tiny_dataset()
    rows = np.arange(num_test) % 21
    images, labels = small.test_images[rows], small.test_labels[rows]
    dataset = small._replace(test_images=images, test_labels=labels)
    box = dz.black_box(np.tanh, (3,))
    model = Pair(
        lambda key, x: {"w": jax.random.normal(key, (8, 3))},
        lambda params, x: box(jnp.mean(x, axis=(1, 3)) @ params["w"]),
    )
    task = classification_task(model, dataset, 12)
    params, state = task.init(jax.random.key(0))
    assert task.evaluation_samples(params, state, task.data) == num_test
    scores = task.evaluate(params, state, task.data)
    assert box.num_samples == num_test
    logits = model.apply(params, dataset.normalise(images))
    assert scores["test_accuracy"] == pytest.approx(np.mean(np.argmax(logits, -1) == labels))
