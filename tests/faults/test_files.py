"""Damaged and misplaced files in a run folder: nothing is lost, nothing wrong is trusted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import prune
import train
from tests.conftest import ROOT
from tests.marks import few, long
from tests.runs import TINY, call

pytestmark = long
LENGTH = "--config.training.num_steps=60"
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def start(folder, *more, **options):
    command = [sys.executable, "train.py", *TINY, LENGTH, f"--workdir={folder}", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **{**pipes, **options})


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The summary of a whole run, and a folder of the same run stopped after some 30 steps."""
    folder = tmp_path_factory.mktemp("stopped")
    assert call(train.main, *TINY, LENGTH, f"--workdir={folder / 'whole'}") == 0
    process = start(folder / "part")
    metrics = folder / "part/metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 25):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    return summary_of(folder / "whole"), folder / "part"


def newest(folder):
    steps = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()]
    return folder / "checkpoints" / str(max(steps))


def truncate(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_progress(folder):
    path = newest(folder) / "progress/metadata"
    content = json.loads(path.read_text())
    content["num_queries"] += 1000
    path.write_text(json.dumps(content))


def drop_from_progress(folder):
    path = newest(folder) / "progress/metadata"
    content = json.loads(path.read_text())
    del content["best"]
    path.write_text(json.dumps(content))


def empty_arrays(folder):
    for path in (newest(folder) / "state").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"")


def as_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def as_file(path):
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("a file")


def break_metrics(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3][:20]
    lines[5], lines[6], lines[7], lines[8] = b"[]", b"3", b"{}", b"\xff\xfe"
    path.write_bytes(b"\n".join(lines))


GOES_ON = {
    "progress edited": (edit_progress, "is damaged"),
    "progress without a name": (drop_from_progress, "is damaged"),
    "arrays emptied": (empty_arrays, "is damaged"),
    "metadata cut": (lambda f: truncate(newest(f) / "_CHECKPOINT_METADATA"), "going on"),
    "newest checkpoint gone": (lambda f: shutil.rmtree(newest(f)), "finished"),
    "metrics broken": (break_metrics, "5 of its lines could not be read"),
    "metrics gone": (lambda f: (f / "metrics.jsonl").unlink(), "going on"),
    "events gone": (lambda f: shutil.rmtree(f / "tensorboard"), "going on"),
    "ratios gone": (lambda f: (f / "ratios.json").unlink(), "scoring"),
    "mask cut, not needed": (lambda f: truncate(f / "mask.npz"), "going on"),
    "half a temporary file": (
        lambda f: (f / ".summary.json.unfinished").write_text("{"),
        "going on",
    ),
}
REFUSED = {
    "config cut": (lambda f: truncate(f / "config.json"), "config.json is not valid JSON"),
    "config nested": (lambda f: (f / "config.json").write_text("[" * 9999), "is not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "must hold a JSON object"),
    "config no text": (lambda f: (f / "config.json").write_bytes(b"\xff"), "is not valid JSON"),
    "config a folder": (lambda f: as_folder(f / "config.json"), "cannot be read"),
    "config gone": (lambda f: (f / "config.json").unlink(), "no config.json that says of which"),
    "summary empty": (lambda f: (f / "summary.json").write_text("{}"), "is not a summary"),
    "summary cut": (lambda f: (f / "summary.json").write_text('{"a":'), "is not valid JSON"),
    "ratios cut": (lambda f: truncate(f / "ratios.json"), "is not a ratios file"),
    "ratios a folder": (lambda f: as_folder(f / "ratios.json"), "cannot read the ratios"),
    "checkpoints a file": (lambda f: as_file(f / "checkpoints"), "checkpoints"),
    "metrics a folder": (lambda f: as_folder(f / "metrics.jsonl"), "metrics.jsonl"),
}


def resumed(folder):
    return call(train.main, *TINY, LENGTH, f"--workdir={folder}")


@pytest.mark.parametrize("damage", few(GOES_ON, 5))
def test_a_run_goes_on_to_the_same_bits(damage, stopped, tmp_path, capfd):
    whole, part = stopped
    shutil.copytree(part, tmp_path / "run")
    inflict, words = GOES_ON[damage]
    inflict(tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes() if "broken" in damage else b""
    assert resumed(tmp_path / "run") == 0
    output = capfd.readouterr()
    assert words in output.out
    assert "Traceback" not in output.err
    summary = summary_of(tmp_path / "run")
    for name in ("parameters_sha256", "num_queries", "test_accuracy", "best_test_accuracy"):
        assert summary[name] == whole[name], name
    assert not list((tmp_path / "run").rglob(".*.unfinished"))
    if before:
        assert (tmp_path / "run/metrics_damaged.jsonl").read_bytes() == before
        steps = (tmp_path / "run/metrics.jsonl").read_text().count('"loss"')
        assert steps == 60 - 5


@pytest.mark.parametrize("damage", REFUSED)
def test_what_cannot_be_trusted_is_one_line_and_left_as_it_is(damage, stopped, tmp_path, capfd):
    shutil.copytree(stopped[1], tmp_path / "run")
    inflict, words = REFUSED[damage]
    inflict(tmp_path / "run")
    checkpoints = sorted(p.name for p in (tmp_path / "run").glob("checkpoints/*"))
    threads = set(threading.enumerate())
    assert resumed(tmp_path / "run") in (1, 2)
    begun = set(threading.enumerate()) - threads
    assert not {thread.name for thread in begun if not thread.daemon}
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1, error
    assert sorted(p.name for p in (tmp_path / "run").glob("checkpoints/*")) == checkpoints


def test_a_cut_mask_is_one_line_where_it_is_needed(tmp_path, capfd):
    arguments = [*TINY, f"--workdir={tmp_path}", "--config.pruning.mask=weights"]
    assert call(prune.main, *arguments) == 0
    truncate(tmp_path / "mask.npz")
    capfd.readouterr()
    assert call(train.main, *arguments) == 2
    error = capfd.readouterr().err
    assert "mask.npz cannot be read as a mask" in error
    assert error.count("\n") == 1


def test_a_file_in_the_place_of_the_run_folder_is_one_line(tmp_path, capfd):
    (tmp_path / "run").write_text("a file")
    for main in (train.main, prune.main):
        assert call(main, *TINY, f"--workdir={tmp_path / 'run'}") == 2
        assert capfd.readouterr().err.count("\n") == 1
    assert (tmp_path / "run").read_text() == "a file"


def test_prune_keeps_out_of_a_folder_in_use(tmp_path, capfd):
    from deepzero_jax.training import RunFolder

    with RunFolder(tmp_path, {}):
        assert call(prune.main, *TINY, f"--workdir={tmp_path}") == 2
    assert "another process is working in" in capfd.readouterr().err


@pytest.mark.parametrize("what", few(["folder deleted", "output closed"]))
def test_what_goes_away_during_a_run_is_one_line(what, stopped, tmp_path):
    process = start(tmp_path / "run", "--config.training.checkpoint_seconds=0")
    metrics = tmp_path / "run/metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 5):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.002)
    if what == "folder deleted":
        for _ in range(3):  # the run writes into it at the same time
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
    else:
        process.stdout.close()
        process.stdout = None
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1, error
    assert "Traceback" not in error, error
    assert error.startswith("train.py: error: ")
    assert error.count("\n") == 1, error
    if what == "output closed":
        assert "standard output was closed" in error
        assert resumed(tmp_path / "run") == 0
        whole = stopped[0]["parameters_sha256"]
        assert summary_of(tmp_path / "run")["parameters_sha256"] == whole


@pytest.mark.parametrize("name", ["mask.npz", "ratios.png"])
def test_pruning_asks_nothing_where_it_could_not_write(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "run" / name).mkdir(parents=True)
    asked = lambda *_: pytest.fail("the scores were asked for")
    monkeypatch.setattr("deepzero_jax.applications.classification.scoring.Scoring.scores", asked)
    assert call(prune.main, *TINY, f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert f"cannot write to the run folder {tmp_path / 'run'} ({name}: Is a directory)" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "run").glob(".*.unfinished"))
