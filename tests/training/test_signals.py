"""Signals that ask a run to stop: of this process, as they come, and of no other."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FORKED = """
import os, signal, time
from deepzero_jax.training.signals import StopRequest, leave_at_once
if {program}:
    leave_at_once("it")
request = StopRequest()
if {active}:
    request.__enter__()
child = os.fork()
if child == 0:
    time.sleep(20)
    os._exit(0)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(0.3)
print(os.WTERMSIG(status), request.signum, flush=True)
if {active}:
    request.__exit__(None, None, None)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(2)
"""

COMPUTING = """
import os, signal, threading, time
import jax, jax.numpy as jnp
from deepzero_jax.training.signals import StopRequest
def signals():
    for _ in range(2):
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
long = jax.jit(lambda x: jax.lax.while_loop(lambda x: x > 0, lambda x: x + 1e-3 * jnp.sin(x), x))
with StopRequest():
    threading.Thread(target=signals, daemon=True).start()
    long(jnp.ones(())).block_until_ready()
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("program", "active"), [(True, False), (True, True), (False, True)])
def test_a_signal_to_a_forked_process_is_none_to_this_one(program, active):
    found = run(FORKED.format(program=program, active=active))
    assert found.stdout == f"{int(signal.SIGTERM)} None\n", found.stderr
    assert found.returncode == (128 + signal.SIGTERM if program else -signal.SIGTERM)


def test_a_second_signal_ends_a_process_that_computes():
    assert run(COMPUTING).returncode == 128 + signal.SIGTERM


# Nothing wakes a thread that waits for a mutex of its own, as nothing does that waits for XLA.
STUCK = """
import ctypes
import sys

from deepzero_jax.training.signals import StopRequest, leave_at_once

lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(128)
leave_at_once("train.py")
with StopRequest():
    print("stuck", flush=True)
    lock(mutex)
    lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_run_that_is_stuck(signum):
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == b"stuck\n"
            run.send_signal(signum)
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(1)
            run.send_signal(signum)
            assert run.wait(20) == 128 + signum
        finally:
            run.kill()
