"""What a program asks of its process."""

import ctypes
import gc
import os
import subprocess
import sys

import pytest

from deepzero_jax.platform import collect_rarely, prepare_program
from tests.marks import long

TAKES_AND_FREES = """
import resource, sys
from deepzero_jax.platform import keep_freed_memory
if "keep" in sys.argv: keep_freed_memory()
take = lambda: bytearray(b"x") * 2**26
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


def page_faults(*arguments, **environment):
    # What the environment here says of the allocator must not decide.
    ours = ("MALLOC_", "GLIBC_TUNABLES")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    call = [sys.executable, "-c", TAKES_AND_FREES, *arguments]
    return int(subprocess.check_output(call, env={**plain, **environment}, text=True))


@long
@pytest.mark.skipif(not GLIBC, reason="an allocator other than glibc's")
def test_freed_memory_is_kept_unless_the_environment_chooses():
    assert page_faults("keep") < 20
    assert page_faults("keep", MALLOC_PERTURB_="0") >= 20
    assert page_faults() >= 20


@pytest.mark.parametrize(
    ("before", "after"), [(700, 20_000), (0, 0), (50_000, 50_000)], ids=["default", "off", "rarer"]
)
def test_garbage_is_looked_for_rarely_where_nobody_chose(before, after):
    kept = gc.get_threshold()
    try:
        gc.set_threshold(before, 7, 9)
        collect_rarely()
        assert gc.get_threshold() == (after, 7, 9)
    finally:
        gc.set_threshold(*kept)


LIMIT = "--xla_cpu_collective_call_terminate_timeout_seconds"


@pytest.mark.parametrize(
    ("flags", "after"),
    [
        ("", []),
        ("--xla_force_host_platform_device_count=1", []),
        ("--xla_force_host_platform_device_count=2", [f"{LIMIT}=604800"]),
        (f"--xla_force_host_platform_device_count=2 {LIMIT}=90", [f"{LIMIT}=90"]),
    ],
    ids=["default", "one device", "two", "chosen"],
)
def test_devices_wait_for_one_another_as_long_as_they_must(flags, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    prepare_program()
    prepare_program()
    assert [flag for flag in os.environ["XLA_FLAGS"].split() if flag.startswith(LIMIT)] == after
