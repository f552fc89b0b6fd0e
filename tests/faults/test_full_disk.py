"""A disk that fills up during a run."""

import json
import subprocess

import pytest

from tests.faults.test_files import start, summary_of
from tests.marks import long


def mount(folder, size, *more):
    call = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *more]), "tmpfs", str(folder)]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "120k"):
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@long
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room(small_disk, tmp_path):
    whole = start(tmp_path / "whole")
    assert (whole.communicate()[1], whole.returncode)[1] == 0
    run = start(small_disk / "run")
    error = run.communicate()[1]
    assert run.returncode == 1, error
    assert "the disk is full" in error, error
    assert error.count("\n") == 1, error
    assert mount(small_disk, "50m", "remount")
    again = start(small_disk / "run")
    error = again.communicate()[1]
    assert again.returncode == 0, error
    found, expected = summary_of(small_disk / "run"), summary_of(tmp_path / "whole")
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert found["num_queries"] == expected["num_queries"]
    lines = (small_disk / "run/metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(1, 61))
