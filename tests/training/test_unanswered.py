"""Runs whose black box leaves samples without an answer: what counts as right, what is told."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.sampling import dense_sampler
from deepzero_jax.training import (
    NonFiniteError,
    TrainStep,
    classification_task,
    cross_entropy,
    make_optimizer,
    predicted_classes,
    train,
)
from tests.runs import linear_behind, tiny_dataset

NUM_TEST = 21


def strict(line):
    """JSON, which has no NaN."""
    return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def failing(which, num_failing):
    """A task whose box does not answer so many samples of each call of the parts named."""

    def host(logits):
        evaluates = len(logits) == NUM_TEST
        if (which == "evaluation") == evaluates:
            logits = np.where(np.arange(len(logits))[:, None] < num_failing, np.nan, logits)
        return logits

    box = dz.black_box(host, (3,), on_failure="nan", retries=0, backoff=0.0)
    model = linear_behind(box, 3)
    return box, model, classification_task(model, tiny_dataset(), 12)


def run(folder, task, num_steps=2, lines=None):
    params, state = task.init(jax.random.key(0))
    estimator, optimizer = dz.cge(smoothing=1e-2), make_optimizer("sgd", lambda step: 0.01)
    step = TrainStep(task, estimator, optimizer, dense_sampler(params))
    log = ([] if lines is None else lines).append
    start = step.init(jax.random.key(1), params, state)
    return train(step, start, folder=folder, num_steps=num_steps, schedule=0.01, log=log)


def test_logits_that_are_nan_are_of_no_class_and_never_right():
    logits = jnp.array([[0.0, 1.0], [jnp.nan, 5.0], [jnp.nan, jnp.nan], [3.0, -jnp.inf]])
    assert predicted_classes(logits).tolist() == [1, -1, -1, 0]
    for label in (0, 1):
        right = cross_entropy(logits[1:3], jnp.array([label, label]))[1]["accuracy"]
        assert right == 0
    assert cross_entropy(logits, jnp.array([1, 0, 0, 0]))[1]["accuracy"] == 0.5


@pytest.mark.parametrize("num_failing", [5, NUM_TEST])
def test_an_evaluation_counts_what_has_no_answer_as_wrong_and_tells_how_many(num_failing, tmp_path):
    box, model, task = failing("evaluation", num_failing)
    lines = []
    summary = run(tmp_path, task, lines=lines)
    dataset = tiny_dataset()
    params, _ = task.init(jax.random.key(0))
    found = task.evaluate(params, {}, task.data)["test_accuracy"]
    logits = model.apply(params, dataset.normalise(dataset.test_images))
    right = np.argmax(logits, -1) == np.asarray(dataset.test_labels)
    assert found == pytest.approx(right[num_failing:].sum() / NUM_TEST)
    assert summary["evaluation_unanswered"] == summary["num_unanswered"] == num_failing
    assert any(f"({num_failing} samples without an answer)" in line for line in lines)
    written = strict((tmp_path / "summary.json").read_text())
    assert (written["test_loss"], written["num_dropped"]) == (None, 0)
    assert written["evaluation_unanswered"] == num_failing
    recorded = [strict(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["num_unanswered"] for line in recorded] == [0, 0, num_failing]
    assert recorded[-1]["test_loss"] is None
    strict((tmp_path / "asked.json").read_text())
    # What is read back goes on.
    more = run(tmp_path, task, num_steps=3)
    assert more["num_unanswered"] == 2 * num_failing
    assert more["evaluation_unanswered"] == num_failing
    assert box.num_dropped == 4 * num_failing


def test_a_step_without_answers_names_the_box_and_not_the_learning_rate(tmp_path):
    _, _, task = failing("training", 4)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, task)
    told = str(caught.value)
    assert re.search(r"the black box left \d+ samples without an answer", told)
    assert "jnp.nanmean" in told and "on_failure" in told and "retries" in told
    assert "learning rate or the smoothing" not in told
