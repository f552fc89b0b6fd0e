"""Two real processes over the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import train
from deepzero_jax.training import PeerWatch, processes, read_metrics
from tests.conftest import ROOT
from tests.runs import TINY, call


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(folder, index, port, *more, count=2):
    call = [sys.executable, "train.py", *TINY, "--workdir", str(folder), *more]
    call += ["--coordinator", f"localhost:{port}", f"--num_processes={count}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*call, f"--process_id={index}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(folder, *more):
    port = free_port()
    return [start(folder, index, port, *more) for index in (0, 1)]


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
