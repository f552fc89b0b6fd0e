"""Signals that reach a process which waits outside of Python."""

import signal
import subprocess
import sys

import pytest

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
