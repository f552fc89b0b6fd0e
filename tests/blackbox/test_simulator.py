"""Programs that answer over their pipes."""

import sys
import time

import jax.numpy as jnp
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, subprocess_simulator


def test_a_program_that_is_not_there_is_looked_for_once():
    box = dz.black_box(subprocess_simulator(["no-such-program"]), (1,), backoff=0.0)
    with pytest.raises(BlackBoxError, match=r"'no-such-program'"):
        box(jnp.ones((32, 1)))
    assert box.num_calls == 1


JSON_PROGRAM = """
import json, sys
for number, line in enumerate(sys.stdin):
    x = json.loads(line)
    if x[0][0] == 7 and number:
        sys.exit("the mesh is broken")
    print(json.dumps([[sum(row)] for row in x]), flush=True)
"""
NPY_PROGRAM = """
import io, sys, numpy as np
pipe = sys.stdin.buffer
while True:
    np.lib.format.read_magic(pipe)
    shape, _, dtype = np.lib.format.read_array_header_1_0(pipe)
    x = np.frombuffer(pipe.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    whole = io.BytesIO()
    np.save(whole, x.sum(1, keepdims=True))
    sys.stdout.buffer.write(whole.getvalue())
    sys.stdout.flush()
"""


@pytest.mark.parametrize(("format", "program"), [("json", JSON_PROGRAM), ("npy", NPY_PROGRAM)])
def test_a_program_answers_over_its_pipes(format, program):
    host = subprocess_simulator([sys.executable, "-c", program], format)
    box = dz.black_box(host, (1,), max_batch=2)
    x = jnp.arange(15.0).reshape(5, 3)
    assert box(x)[:, 0].tolist() == x.sum(1).tolist()
    assert box.num_calls == 3
    host.close()


@pytest.mark.parametrize(
    ("first", "each"), [("print(json.dumps({'ready': 1}), flush=True)", 1), ("pass", 2)]
)
def test_an_answer_too_many_is_not_taken_for_the_next_one(first, each):
    program = f"""
import json, sys
{first}
for line in sys.stdin:
    answers = json.dumps([[sum(row)] for row in json.loads(line)])
    sys.stdout.write((answers + chr(10)) * {each})
    sys.stdout.flush()
"""
    host = subprocess_simulator([sys.executable, "-c", program])
    box = dz.black_box(host, (1,), backoff=0.0, retries=0)
    found, errors = [], []
    for k in range(1, 5):
        try:
            found.append((k, box(k * jnp.ones((1, 3))).item() / 3))
        except BlackBoxError as error:
            errors.append(str(error))
        time.sleep(0.05)
    assert all(k == answer for k, answer in found)
    assert errors
    assert "no numbers" in errors[0] or "more than one answer" in errors[0]
    host.close()


@pytest.mark.parametrize("inputs", [({"x": jnp.ones((2, 1))},), (jnp.ones((2, 1)),) * 2])
def test_a_program_is_sent_one_array(inputs):
    box = dz.black_box(subprocess_simulator([sys.executable, "-c", JSON_PROGRAM]), (1,))
    with pytest.raises(BlackBoxError, match=r"one array of samples, got (dict|2 inputs)"):
        box(*inputs)
    assert box.num_calls == 1


def test_a_program_that_dies_is_started_again():
    host = subprocess_simulator([sys.executable, "-c", JSON_PROGRAM])
    box = dz.black_box(host, (1,), backoff=0.0, retries=1)
    box(jnp.ones((1, 2)))
    assert box(jnp.full((1, 2), 7.0)).tolist() == [[14.0]]
    assert box.num_failed == 1
    box = dz.black_box(host, (1,), retries=0)
    with pytest.raises(BlackBoxError, match="ended with status 1: the mesh is broken"):
        box(jnp.full((1, 2), 7.0))
    host.close()
    with pytest.raises(ValueError, match="a list of words"):
        subprocess_simulator("simulate --fast")
    with pytest.raises(ValueError, match="format must be one of"):
        subprocess_simulator(["simulate"], "csv")
