from contextlib import suppress

from deepzero_jax.training import Stages, stages


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
