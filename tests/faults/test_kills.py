"""Runs that are ended at any moment, in any way, and begun again: the same bits at the end."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.marks import few, long
from tests.runs import TINY

KINDS = {
    "masks kept": [],
    "first order": ["estimator.name=first_order", "pruning.sparsity=0"],
    "random directions": ["estimator.name=rge", "estimator.num_directions=5"],
    "price-aware": ["sampling.name=price_aware"],
    "blocks": ["sampling.name=blocks", "sampling.coherence=0.9", "pruning.sparsity=0"],
}
COMMON = ["training.num_steps=300", "training.checkpoint_seconds=0.1"]
WAYS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(folder, kind):
    fields = [f"--config.{change}" for change in (*COMMON, *KINDS[kind])]
    return subprocess.Popen(
        [sys.executable, "train.py", *TINY, *fields, f"--workdir={folder}"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, way, rng):
    """Ends a process at a random moment; its output, or that of its own end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.choice([rng.uniform(0, 4), rng.uniform(3, 12)]))
    process.send_signal(way)
    if way == signal.SIGINT and rng.random() < 0.5:
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(way)  # an impatient second Ctrl-C
    return process.communicate(timeout=120)


def chain(folder, kind, num_kills, seed):
    """Kills a run and begins it again; statuses, and the summaries with and without kills."""
    whole = start(folder / "whole", kind)
    error = whole.communicate(timeout=300)[1]
    assert whole.returncode == 0, error
    rng, statuses, part = random.Random(seed), [], 0
    names = ("parameters_sha256", "num_queries", "test_accuracy", "best_test_accuracy")
    summary_of = lambda name: {
        key: json.loads((folder / name / "summary.json").read_text())[key] for key in names
    }
    while len(statuses) < num_kills:
        way = rng.choice(WAYS)
        process = start(folder / f"part{part}", kind)
        _, error = end(process, way, rng)
        assert process.returncode in (0, -way, 128 + way), (process.returncode, error)
        assert "Traceback" not in error, error
        assert error.count("\n") <= 1, error
        if process.returncode == 0:  # it was done before it was killed
            assert summary_of(f"part{part}") == summary_of("whole")
            part += 1
        else:
            statuses.append(process.returncode)
    last = start(folder / f"part{part}", kind)
    error = last.communicate(timeout=300)[1]
    assert last.returncode == 0, error
    assert summary_of(f"part{part}") == summary_of("whole")
    assert not list((folder / f"part{part}").rglob(".*.unfinished"))
    return statuses, part + 1


@long
@pytest.mark.parametrize("num_kills", few([2, 3]))
def test_a_run_ended_in_every_way_goes_on_to_the_same_bits(num_kills, tmp_path):
    statuses, _ = chain(tmp_path, "masks kept", num_kills, seed=2)
    assert len(statuses) == num_kills


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_kills(kind, tmp_path, tell):
    statuses, runs = chain(tmp_path, kind, num_kills=21, seed=list(KINDS).index(kind))
    tell(f"{kind}: {len(statuses)} kills {sorted(statuses)}, {runs} runs, all identical")


@long
def test_what_a_box_was_asked_is_counted_whenever_the_process_is_killed(tmp_path):
    """A process calls 57 times to probe, 4 to score, 2 in each of 6 steps, 1 to evaluate twice."""
    asked, statuses = tmp_path / "asked", []
    fields = ["--config", str(ROOT / "tests/records/mortal.py"), f"--workdir={tmp_path / 'run'}"]
    for last in (30, 57 + 2, 4 + 3, 4, 7, 0):
        process = subprocess.run(
            [sys.executable, "train.py", *fields],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MORTAL_ASKED": str(asked),
                "MORTAL_LAST": str(last),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        statuses.append(process.returncode)
    assert statuses == 5 * [-signal.SIGKILL] + [0], process.stderr
    sent = sum(int(line) for line in asked.read_text().splitlines())
    told = json.loads((tmp_path / "run/summary.json").read_text())["box_samples"]
    assert sum(told.values()) == sent
    assert (told["probing"], told["pruning"]) == ((30 + 57) * 12, 24 + 48)
    # The third process died in the second step, the fourth too, the next as it evaluated, and
    # none had saved the state after a step. One is 12 images at a base and 12 coordinates.
    assert told["training"] == (13 + 1 + 2 * 13 + 3 * 13 + 6 * 13) * 12
    assert told["evaluation"] == 3 * 21
    (box,) = json.loads((tmp_path / "run/asked.json").read_text())["boxes"]
    assert box["num_samples"] == sent
