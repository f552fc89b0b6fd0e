"""Runs on several devices."""

import pytest

from tests.marks import long
from tests.runs import on_devices

# The compiler may cut a leaf of two numbers over two devices.
LEAF_AS_LONG = """
import json
import tempfile
from pathlib import Path

import train
from tests.runs import TINY
from deepzero_jax.training import read_metrics

found = {}
for name, overrides in {
    "dense": ["--config.pruning.sparsity=0"],
    "masks of weights": ["--config.pruning.mask=weights"],
}.items():
    folders = [Path(tempfile.mkdtemp()) for _ in range(2)]
    for folder, devices in zip(folders, (1, 2)):
        more = [*overrides, f"--config.mesh.coordinates={devices}", "--config.training.num_steps=4"]
        assert train.main([*TINY, "--workdir", str(folder / "run"), *more]) == 0
    found[name] = [
        [line["loss"] for line in read_metrics(folder / "run/metrics.jsonl") if "loss" in line]
        for folder in folders
    ]
print(json.dumps(found))
"""


@long
def test_a_leaf_with_a_number_for_each_device():
    for one, two in on_devices(2, LEAF_AS_LONG).values():
        assert len(one) == 4
        assert two == pytest.approx(one, rel=1e-5)


# Four devices: two share the coordinates, two a batch, where the record does not say otherwise.
BOX_ON_TWO_AXES = """
import contextlib
import io
import json
import sys

sys.path.insert(0, "tests/records")
import train

record = ["--config=tests/records/boxed.py", "--plan", "--config.mesh.data=2"]
found = []
for more in ([], ["--config.mesh.coordinates=1"]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        found.append(train.main([*record, *more]))
    found.append(said.getvalue())
print(json.dumps(found))
"""


@long
def test_a_box_on_devices_that_share_two_things_is_refused_in_the_plan_too():
    status, said, other, silent = on_devices(4, BOX_ON_TWO_AXES)
    assert (status, other, silent) == (2, 0, "")
    assert said.startswith("train.py: error: mesh.data=2 shares a batch between devices and mesh.")
    assert said.count("\n") == 1


# A budget that holds the first step and not the evaluation after it.
BOX_THAT_FAILS = """
import contextlib
import io
import json
import os
import sys
import tempfile

os.environ["BOXED_FOLDER"] = tempfile.mkdtemp()
os.environ["BOXED_BUDGET"] = "700"
sys.path.insert(0, "tests/records")
import train

folder = os.path.join(os.environ["BOXED_FOLDER"], "run")
record = ["--config=tests/records/boxed.py", "--workdir", folder]
more = ["--config.training.num_steps=1", "--config.pruning.sparsity=0"]
with contextlib.redirect_stderr(io.StringIO()) as said:
    status = train.main([*record, *more])
with open(os.path.join(os.environ["BOXED_FOLDER"], "asked")) as asked:
    sent = sum(int(line.split()[1]) for line in asked)
print(json.dumps([status, said.getvalue(), sent, os.listdir(os.path.join(folder, "checkpoints"))]))
"""


@long
def test_a_box_that_fails_on_devices_ends_the_run_in_a_line_and_keeps_the_step():
    status, said, sent, kept = on_devices(4, BOX_THAT_FAILS)
    assert (status, kept) == (1, ["1"])
    (line,) = [line for line in said.splitlines() if line.startswith("train.py: error")]
    assert "the evaluation after step 1 failed: the budget of 700 samples does not hold" in line
    assert f"more after {sent}" in line
