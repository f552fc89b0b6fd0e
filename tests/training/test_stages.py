from contextlib import suppress

import jax.numpy as jnp
import pytest

import deepzero_jax as dz
from deepzero_jax.training import Stages, read_json, read_metrics, stages
from tests.training.test_own_parts import prepared


def test_time_is_that_of_all_processes_whatever_ended_them(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: clock[0])
    first = Stages(0, {}, tmp_path)
    with suppress(KeyboardInterrupt), first.asking("part"):
        clock[0] += 30
        raise KeyboardInterrupt
    clock[0] += 1000
    second = Stages(0, {}, tmp_path)
    assert second.wall_seconds == 30
    with second.asking("part"):
        clock[0] += 20
    assert second.wall_seconds == 50


def test_what_is_asked_is_in_the_files_while_it_is_asked(tmp_path):
    seen = []

    def host(x):
        seen.append([read_json(tmp_path / name) for name in ("samples.json", "seconds.json")])
        return x

    box, first = dz.black_box(host, (), retries=0), Stages(0, {}, tmp_path)
    with first.asking("labels"):
        box(jnp.ones(3))
        box(jnp.ones(2))
    assert [samples for samples, _ in seen] == [{"labels": 3}, {"labels": 5}]
    assert seen[0][1]["wall_seconds"] <= seen[1][1]["wall_seconds"]
    # A process that was killed in a part has left its count.
    second = Stages(0, {}, tmp_path)
    with second.asking("labels"), second.asking("certification"):
        box(jnp.ones(4))
    assert second.box_samples == {"labels": 9, "certification": 4}
    assert read_json(tmp_path / "samples.json") == second.box_samples


@pytest.mark.parametrize(
    ("num_steps", "most", "evaluated"),
    [(14, 12, range(2, 15, 2)), (23, 12, [*range(2, 23, 2), 23]), (3, 12, [1, 2, 3])],
)
def test_evaluations_are_at_most_as_many_as_asked_for(num_steps, most, evaluated, tmp_path):
    task = prepared()[0].task
    stages = Stages(0, {"only": 0}, tmp_path, log=lambda line: None)
    stages.run("only", task, dz.first_order(), num_steps, 0.1, num_evaluations=most)
    records = read_metrics(tmp_path / "only/metrics.jsonl")
    assert [record["step"] for record in records if "test_loss" in record] == list(evaluated)
    with pytest.raises(ValueError, match=r"^num_evaluations must be .* at least 1, got 0"):
        stages.run("only", task, dz.first_order(), num_steps, 0.1, num_evaluations=0)
