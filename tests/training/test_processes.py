"""Two real processes over the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import train
from deepzero_jax.training import PeerWatch, processes, read_metrics
from deepzero_jax.training.rendezvous import meet
from deepzero_jax.training.sentinel import lost_first
from tests.conftest import ROOT
from tests.marks import long
from tests.runs import TINY, call


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(folder, index, port, *more, count=2, record=TINY, **variables):
    call = [sys.executable, "train.py", *record, "--workdir", str(folder), *more]
    call += ["--coordinator", f"localhost:{port}", f"--num_processes={count}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.Popen(
        [*call, f"--process_id={index}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(folder, *more, record=TINY):
    port = free_port()
    return [start(folder, index, port, *more, record=record) for index in (0, 1)]


def finish(started, seconds=240):
    return [(p.communicate(timeout=seconds), p.returncode) for p in started]


def wait_for_steps(folder, count, seconds=180):
    until = time.monotonic() + seconds
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= count):
        assert time.monotonic() < until, "no steps"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_survive_the_loss_of_either_and_end_as_one(tmp_path):
    steps = "--config.training.num_steps=1500"
    alone = subprocess.run(
        [sys.executable, "train.py", *TINY, "--workdir", str(tmp_path / "one"), steps],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert alone.returncode == 0
    folder = tmp_path / "two"
    for victim in (1, 0):
        started = start_both(folder, steps)
        metrics = folder / "metrics.jsonl"
        done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        wait_for_steps(folder, done + 100)
        lost_at = time.monotonic()
        started[victim].send_signal(signal.SIGKILL)
        survivor = started[1 - victim]
        (_, err), status = finish([survivor], seconds=90)[0]
        assert time.monotonic() - lost_at < 60
        assert status != 0
        assert f"process {victim} of 2" in err, err[-2000:]
        assert "the same command" in err, err[-2000:]
        started[victim].communicate()
    (first, second) = finish(start_both(folder, steps))
    assert (first[1], second[1]) == (0, 0), (first, second)
    assert "going on from step" in first[0][0]
    # Gloo prints a line of its own.
    assert [line for line in second[0][0].splitlines() if not line.startswith("[Gloo]")] == []
    whole, parts = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")
    )
    assert parts["num_queries"] == whole["num_queries"]
    assert parts["test_accuracy"] == pytest.approx(whole["test_accuracy"], abs=0.01)


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}

    def command(name, mesh):
        call = [sys.executable, "train.py", *TINY, "--workdir", str(tmp_path / name)]
        return [*call, f"--config.mesh.coordinates={mesh}"]

    options = {"cwd": ROOT, "env": {**os.environ, **devices}, "text": True}
    subprocess.run(command("one", 1), check=True, capture_output=True, **options)
    moved = tmp_path / "moved"
    first = subprocess.Popen(command("moved", 4), stdout=subprocess.PIPE, **options)
    wait_for_steps(moved, 100)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM
    second = subprocess.run(command("moved", 2), check=True, capture_output=True, **options)
    assert "going on from step" in second.stdout
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "moved"))
    assert [line["step"] for line in parts] == [line["step"] for line in whole]
    for a, b in zip(whole, parts, strict=True):
        if "loss" in a:
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


def asked_in(folder):
    """What the host function has written down of itself: samples, by process."""
    asked = {}
    for line in (folder / "asked").read_text().splitlines():
        process, samples = map(int, line.split())
        asked[process] = asked.get(process, 0) + samples
    return asked


@long
def test_a_box_is_counted_and_budgeted_over_all_processes(tmp_path, monkeypatch):
    record = ["--config", str(ROOT / "tests/records/boxed.py")]
    monkeypatch.setenv("BOXED_FOLDER", str(tmp_path))
    monkeypatch.setenv("BOXED_BUDGET", "1400")
    folder, auto = tmp_path / "run", "--config.estimator.smoothing=auto"
    for (_, err), status in finish(start_both(folder, auto, record=record)):
        assert status == 1
        assert "of the budget of 1,400 only" in err
    assert 1_200 < sum(asked_in(tmp_path).values()) <= 1_400
    monkeypatch.delenv("BOXED_BUDGET")
    for (_, err), status in finish(start_both(folder, auto, record=record)):
        assert status == 0, err
    asked = asked_in(tmp_path)
    assert len(asked) == 4
    summary = json.loads((folder / "summary.json").read_text())
    assert sum(summary["box_samples"].values()) == sum(asked.values())
    live = json.loads((folder / "asked.json").read_text())
    assert live["boxes"][0]["num_samples"] == sum(asked.values())
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "box_samples" in line]
    told = sum(line["box_samples"] for line in lines)
    before = sum(summary["box_samples"][name] for name in ("pruning", "probing"))
    assert told + before == sum(asked.values())


@long
def test_what_one_process_asks_is_counted_whatever_ends_it(tmp_path, monkeypatch):
    record = ["--config", str(ROOT / "tests/records/boxed.py")]
    monkeypatch.setenv("BOXED_FOLDER", str(tmp_path))
    folder, port = tmp_path / "run", free_port()
    summed = lambda: sum(json.loads((folder / "asked.json").read_text())["samples"].values())

    started = [start(folder, 0, port, record=record)]
    started += [start(folder, 1, port, record=record, BOXED_BREAKS_AFTER="15")]
    (other, broken) = (err.splitlines()[-1] for (_, err), status in finish(started) if status == 1)
    assert "step 8 failed: a black box failed in another process, which says why." in other
    assert "3 times in a row; the last time: ValueError: the sensor is unplugged." in broken
    assert summed() == sum(asked_in(tmp_path).values())

    started = [start(folder, 0, port, record=record)]
    started += [start(folder, 1, port, record=record, BOXED_DIES_AFTER="5")]
    assert started[1].wait(240) == -signal.SIGKILL
    started[0].kill()
    finish(started)
    assert summed() < sum(asked_in(tmp_path).values())  # the lead was not told

    for (_, err), status in finish(start_both(folder, record=record)):
        assert status == 0, err
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 13))
    told = json.loads((folder / "summary.json").read_text())["box_samples"]
    assert sum(told.values()) == summed() == sum(asked_in(tmp_path).values())
    (box,) = json.loads((folder / "asked.json").read_text())["boxes"]
    assert box["num_samples"] == summed()


@long
def test_different_configs_are_refused_by_both(tmp_path):
    port = free_port()
    started = [
        start(tmp_path / "run", 0, port, "--config.seed=0"),
        start(tmp_path / "run", 1, port, "--config.seed=1"),
    ]
    for (_, err), status in finish(started):
        assert status == 2
        assert "seed is 0 there, 1 here" in err
    assert not (tmp_path / "run/config.json").exists()


def test_a_coordinator_that_does_not_answer_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "_PATIENCE", 1.0)
    port = free_port()
    arguments = [*TINY, f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=1"]
    assert train.main([*arguments, f"--workdir={tmp_path}"]) == 2
    assert f"the coordinator localhost:{port} does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator=here:1"], "go together"),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--coordinator=here:1", "--num_processes=2", "--process_id=2"], "must lie in [0, 2)"),
        (["--config.mesh.coordinates=64"], "asks for 64 devices"),
        (["--config.mesh.data=0"], "at least 1"),
    ],
)
def test_bad_flags_are_one_line(flags, words, capsys, tmp_path):
    assert call(train.main, *TINY, *flags, f"--workdir={tmp_path}/run") == 2
    assert words in capsys.readouterr().err


def test_of_several_silent_processes_the_first_is_named(tmp_path):
    now = time.time()
    for index, (beat, age) in enumerate([("7", 30), ("9", 20), ("8", 1), ("finished", 60)]):
        (tmp_path / str(index)).write_text(beat)
        os.utime(tmp_path / str(index), (now - age, now - age))
    before = ["7", "9", "8", "finished"]
    assert lost_first(tmp_path, before, index=2) == [0]
    assert lost_first(tmp_path, before, index=0) == [1]
    assert lost_first(tmp_path, ["6", "9", "8", "x"], index=2) == [1]


@long
def test_a_process_that_never_comes_is_told_in_one_line(tmp_path):
    program = (
        "import sys, train; from deepzero_jax.training import processes; "
        "processes._PATIENCE = 3.0; sys.exit(train.main(sys.argv[1:]))"
    )
    flags = ["--coordinator", f"localhost:{free_port()}", "--num_processes=2", "--process_id=0"]
    done = subprocess.run(
        [sys.executable, "-c", program, *TINY, *flags, f"--workdir={tmp_path}/run"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "not all 2 processes came together" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_silent_peer_is_lost_and_a_finished_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("deepzero_jax.training.processes._BEAT", 0.05)
    said = []
    with PeerWatch(tmp_path, said.append, patience=0.5, index=0, count=2):
        with PeerWatch(tmp_path, said.append, patience=0.5, index=1, count=2) as other:
            time.sleep(0.3)
            other.finish()
        time.sleep(1.0)
        assert said == []
    with PeerWatch(tmp_path, said.append, patience=0.5, index=0, count=2):
        time.sleep(1.0)
    assert "process 1 of 2 has been silent" in said[0]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([(3, 1)], "process 2 is missing; start it"),
        ([(3, 1), (3, 1)], "two processes say --process_id 1"),
        ([(4, 1), (3, 2)], "process 1 says --num_processes 4, process 0 3"),
        ([(3, 1), (3, 2)], None),
    ],
)
def test_who_is_missing_or_wrong_is_told_to_all(others, words):
    port, told = free_port(), {}

    def come(number, count, index):
        try:
            meet("localhost", port, count, index, patience=1.5)
            told[number] = None
        except ConnectionError as error:
            told[number] = str(error)

    every = [(3, 0), *others]
    threads = [
        threading.Thread(target=come, args=(number, *one)) for number, one in enumerate(every)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == len(every)
    if words is None:
        assert set(told.values()) == {None}
    else:
        assert words in told[0]
        assert sum(words in (answer or "") for answer in told.values()) >= 2
