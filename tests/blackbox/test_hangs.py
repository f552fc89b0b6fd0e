"""Boxes that hang, and processes that end while one does."""

import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError
from tests.blackbox.test_box import squares
from tests.conftest import ROOT


def slow_once(seconds):
    calls, inside, most = [], [], []

    def host(samples):
        calls.append(1)
        inside.append(1)
        most.append(len(inside))
        try:
            if len(calls) == 1:
                time.sleep(seconds)
            return squares(samples)
        finally:
            inside.pop()

    return host, most


def test_a_call_that_hangs_is_given_up():
    host, _ = slow_once(10.0)
    box = dz.black_box(host, (1,), timeout=0.2, retries=1, backoff=0.0, thread_safe=True)
    start = time.monotonic()
    assert box(jnp.ones((1, 3))).tolist() == [[3.0]]
    assert time.monotonic() - start < 5
    assert (box.num_calls, box.num_abandoned, box.num_failed) == (2, 1, 1)


def test_a_box_that_is_not_thread_safe_does_not_run_twice_at_once():
    host, most = slow_once(0.5)
    box = dz.black_box(host, (1,), timeout=0.2, retries=1, backoff=0.0)
    with pytest.raises(BlackBoxError, match="still running, and the box is not declared thread_s"):
        box(jnp.ones((1, 3)))
    assert box.num_calls == 1
    time.sleep(0.3)
    assert box(jnp.ones((1, 3))).tolist() == [[3.0]]
    assert max(most) == 1


def test_the_last_call_may_hang_and_be_dropped():
    host, _ = slow_once(0.6)
    box = dz.black_box(host, (1,), timeout=0.2, retries=0, on_failure="nan")
    assert jnp.isnan(box(jnp.ones((1, 3)))).all()
    time.sleep(0.5)
    assert box(jnp.ones((1, 3))).tolist() == [[3.0]]


def test_calls_that_were_given_up_are_bounded():
    stop = threading.Event()
    box = dz.black_box(
        lambda x: stop.wait(20), (1,), timeout=0.02, retries=20, backoff=0.0, thread_safe=True
    )
    with pytest.raises(BlackBoxError, match="8 calls of the black box that were given up"):
        box(jnp.ones((1, 3)))
    assert box.num_abandoned == box.num_calls == 8
    stop.set()


HANGING = """
import time, sys
import deepzero_jax as dz, jax, jax.numpy as jnp
box = dz.black_box(lambda x: time.sleep(60), (1,), timeout=0.3, retries=0, workers={workers})
try:
    with dz.blackbox.box_errors():
        jax.block_until_ready(jax.jit(box)(jnp.ones((2, 3))))
except dz.BlackBoxError as error:
    print(error, time.time(), sep="|", flush=True)
    raise
"""


@pytest.mark.parametrize("workers", [None, 2])
def test_a_process_with_a_hanging_box_exits_after_its_error(workers):
    found = subprocess.run(
        [sys.executable, "-c", HANGING.format(workers=workers)],
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert time.time() - float(found.stdout.split("|")[1]) < 20  # of the 60 that it hangs
    assert "no answer within 0.3 s" in found.stdout
    assert found.returncode == 1


INTERRUPTED = """
import deepzero_jax as dz, jax, jax.numpy as jnp, os, signal, time
# A shell that runs the tests in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
def host(x):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    return x
ask = dz.black_box(host, (3,), timeout={timeout})
ask = jax.jit(ask) if {jitted} else ask
try:
    start = time.time()
    try:
        jax.block_until_ready(ask(jnp.ones((2, 3))))
    except jax.errors.JaxRuntimeError:
        time.sleep(5)
except KeyboardInterrupt:
    print("interrupted", time.time() - start)
    time.sleep(0.2)
    print("once")
"""


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_ctrl_c_inside_a_box_is_a_ctrl_c(jitted, timeout):
    found = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(timeout=timeout, jitted=jitted)],
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert found.stdout.startswith("interrupted"), found.stderr
    assert "once" in found.stdout
    assert float(found.stdout.split()[1]) < 3
