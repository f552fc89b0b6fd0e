"""What a task hands over to be recorded: names, numbers, the best score."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.training import MetricsLog
from tests.runs import tiny_run


def with_evaluation(evaluate):
    return lambda task: task._replace(evaluate=evaluate)


def test_the_best_score_is_one_that_is_a_number(tmp_path):
    given = iter([jnp.float32(jnp.nan), jnp.float32(0.25), np.float64(0.125)])
    evaluate = lambda *_: {"test_accuracy": next(given)}
    found = tiny_run(tmp_path, num_steps=10, task_of=with_evaluation(evaluate))
    assert found["best_test_accuracy"] == 0.25
    assert json.loads((tmp_path / "summary.json").read_text())["best_test_accuracy"] == 0.25


def test_a_metric_of_the_name_of_what_is_recorded_is_refused(tmp_path):
    def loss_of(task):
        def loss(*args):
            value, (model_state, metrics) = task.loss(*args)
            return value, (model_state, {**metrics, "loss": 0 * value})

        return task._replace(loss=loss)

    with pytest.raises(ValueError, match="metric 'loss', which every run records"):
        tiny_run(tmp_path, dz.cge(), num_steps=2, task_of=loss_of)


@pytest.mark.parametrize("name", ["step", "epoch", "learning_rate", "box_samples"])
def test_a_score_of_the_name_of_what_is_recorded_is_refused(tmp_path, name):
    evaluate = lambda *_: {"test_accuracy": 0.5, name: 1.0}
    with pytest.raises(ValueError, match=f"score {name!r}, which every run records"):
        tiny_run(tmp_path, num_steps=1, task_of=with_evaluation(evaluate))


def test_an_evaluation_without_the_score_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="gives no score 'test_accuracy'"):
        tiny_run(tmp_path, num_steps=1, task_of=with_evaluation(lambda *_: {"error": 0.5}))


def test_sessions_of_one_second_leave_a_file_of_events_each(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    for step in range(3):
        log = MetricsLog(tmp_path, step)
        log.write(step + 1, {f"loss{step}": 1.0})
        log.close()
    files = sorted((tmp_path / "tensorboard").glob("*tfevents*"))
    assert len(files) == 3
    for step, file in enumerate(files):
        assert f"loss{step}".encode() in file.read_bytes()
