"""Null in an answer: what JavaScript, pandas and others write for NaN."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, http_endpoint, subprocess_simulator
from tests.blackbox.test_adapters import as_json, server, tensor

# The shape of an answer, one, and one that is null or has it.
CASES = [
    ((), 6.0, None),
    ((2,), [6.0, 1.0], [None, 1.0]),
    ((2,), [6.0, 1.0], None),
    ((2, 1), [[6.0], [1.0]], [[6.0], None]),
    ((2, 1), [[6.0], [1.0]], None),
]


def check(host, shape, good):
    for max_batch in (None, 1):  # alone it is an answer that says nothing of its shape
        box = dz.black_box(
            host, shape, max_batch=max_batch, backoff=0.0, retries=1, on_failure="nan"
        )
        answers = np.asarray(box(jnp.array([1.0, 6.0, 3.0])))
        assert np.isnan(answers[1]).all()
        np.testing.assert_array_equal(answers[[0, 2]], [good, good])
        assert (box.num_answered, box.num_dropped, box.num_samples) == (2, 1, 4)
    box = dz.black_box(host, shape, backoff=0.0, retries=0)
    with pytest.raises(BlackBoxError, match="1 of 3 answers are not finite"):
        box(jnp.array([1.0, 6.0, 3.0]))


def flat(answer, shape):
    leaves = jax.tree.leaves(answer, is_leaf=lambda leaf: leaf is None)
    return leaves * (int(np.prod(shape)) // len(leaves))


@pytest.mark.parametrize(
    ("protocol", "name"),
    [("plain", None), ("plain", "y"), ("instances", None), ("instances", "y"), ("kserve_v2", "y")],
)
def test_null_of_an_endpoint_is_a_sample_without_an_answer(protocol, name):
    pytest.importorskip("httpx")
    case = []

    def answer(body):
        shape, good, lost = case[0]
        if protocol == "kserve_v2":
            rows = [lost if x > 5 else good for x in body["inputs"][0]["data"]]
            data = [number for row in rows for number in flat(row, shape)]
            return as_json({"outputs": [tensor("y", "FP64", data, [len(rows), *shape])]})
        given = body["inputs" if protocol == "plain" else "instances"]
        rows = [lost if x > 5 else good for x in given]
        if protocol == "plain":
            return as_json({"outputs": rows if name is None else {"y": rows}})
        return as_json({"predictions": rows if name is None else [{"y": row} for row in rows]})

    with server(answer) as url:
        for case[:] in zip(CASES):
            check(http_endpoint(url, protocol, output=name), *case[0][:2])


@pytest.mark.parametrize(("shape", "good", "lost"), [CASES[0], CASES[2]])
def test_null_of_a_program_is_a_sample_without_an_answer(shape, good, lost):
    program = f"""
import json, sys
for line in sys.stdin:
    print(json.dumps([{lost} if x > 5 else {good} for x in json.loads(line)]), flush=True)
"""
    host = subprocess_simulator([sys.executable, "-c", program])
    check(host, shape, good)
    host.close()


def test_whole_numbers_may_be_null():
    pytest.importorskip("httpx")
    answers = {"outputs": [tensor("y", "INT32", [3, None], [2])]}
    with server(lambda body: as_json(answers)) as url:
        host = http_endpoint(url, "kserve_v2")
        box = dz.black_box(host, (), backoff=0.0, on_failure="nan", retries=0)
        assert np.array_equal(box(jnp.ones(2)), [3, np.nan], equal_nan=True)
