"""A run whose black box is waited for is left at the first signal, with what it has done."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import OLD_EMITTERS, ROOT
from tests.marks import long


def start(folder, busy_after, num_devices=1):
    flags = os.environ.get("XLA_FLAGS", "").replace(OLD_EMITTERS, "")
    record = ["--config", str(ROOT / "tests/records/busy.py"), f"--workdir={folder / 'run'}"]
    return subprocess.Popen(
        [sys.executable, "train.py", *record],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BUSY_AFTER": str(busy_after),
            "BUSY_ASKED": str(folder / "asked"),
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={num_devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sent(folder):
    asked = folder / "asked"
    return [int(line) for line in asked.read_text().splitlines()] if asked.exists() else []


@long
# A step calls twice; every second one is followed by an evaluation, of one call.
@pytest.mark.parametrize(
    ("busy_after", "num_devices", "signum", "words"),
    [
        (2, 1, signal.SIGTERM, "after step 1 of 4; step 2 was given up: "),
        (4, 1, signal.SIGINT, "after step 2 of 4; the evaluation after step 2 was given up: "),
        # The loop may see the signal before the box does, and leave a step that still waits.
        (2, 2, signal.SIGINT, r"after step 0 of 4(; step 1 was given up: .*)?; the same command"),
    ],
)
def test_a_box_that_is_waited_for_is_asked_no_more(
    busy_after, num_devices, signum, words, tmp_path
):
    process = start(tmp_path, busy_after, num_devices)
    while len(sent(tmp_path)) <= busy_after:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    time.sleep(1.0)
    before, since = sent(tmp_path), time.monotonic()
    process.send_signal(signum)
    error = process.communicate(timeout=50)[1]
    assert time.monotonic() - since < 20  # of the 60 that it is to wait
    assert process.returncode == 128 + signum, error
    assert re.search(words, error), error
    assert num_devices > 1 or "RetryLaterError: too many" in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert sent(tmp_path) == before
    told = json.loads((tmp_path / "run/asked.json").read_text())
    assert sum(told["samples"].values()) == told["boxes"][0]["num_samples"] == sum(before)
    if num_devices > 1:
        return
    again = start(tmp_path, 1_000_000)
    error = again.communicate(timeout=200)[1]
    assert again.returncode == 0, error
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert sum(summary["box_samples"].values()) == sum(sent(tmp_path))
