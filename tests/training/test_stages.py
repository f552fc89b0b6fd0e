from contextlib import suppress

import jax.numpy as jnp

import deepzero_jax as dz
from deepzero_jax.training import Stages, read_json, stages


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
