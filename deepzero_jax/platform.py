"""What the compiler, its threads, the allocator and the garbage collector must be told."""

import ctypes
import gc
import os
import re
import sys

import jaxlib

_FUSION = "--xla_cpu_experimental_ynn_fusion_type="
_DEVICES = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
_THREADS = "PJRT_NPROC"
# Seconds that CPU devices wait for one another before they abort, and before they complain.
_WEEK, _HOUR = 604_800, 3_600
_LIMITS = {
    "xla_cpu_collective_call_terminate_timeout_seconds": _WEEK,
    "xla_cpu_collective_timeout_seconds": _WEEK,
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": _HOUR,
}
# glibc, malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
_KEEP = {-8: 1, -4: 0, -1: -1}
_OBJECTS = 20_000


def prepare_cpu() -> None:
    """Works around two faults of the CPU client of jaxlib 0.10; later ones are left alone.

    Without effect in a process that has computed before this package is imported.
    """
    if re.match(r"0\.10\.", jaxlib.__version__) is not None:
        _avoid_wrong_fusions()
        _leave_a_thread_for_callbacks()


def _avoid_wrong_fusions() -> None:
    """Turns off a fusion that computes wrong numbers, unless XLA_FLAGS names it already.

    Its sums of products over more than 128 rows of a batch are wrong from row 128 on:
    ``jnp.sum(a * jnp.expm1(x), 2)`` under jit, ``a`` [256, 10], ``x`` [180, 256, 10].
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FUSION}".strip()


def _leave_a_thread_for_callbacks() -> None:
    """Gives the client more threads than devices, unless PJRT_NPROC says how many.

    A callback under ``scan`` may wait for a copy that another thread has to make. Where
    each thread runs a callback (one core, or as many devices as cores), it waits for ever.
    """
    wanted = 1 + _num_cpu_devices()
    if wanted > num_cores() and _THREADS not in os.environ:
        os.environ[_THREADS] = str(wanted)


def _num_cpu_devices() -> int:
    """That the environment asks for."""
    devices = _DEVICES.search(os.environ.get("XLA_FLAGS", ""))
    return int(devices.group(1) if devices else os.environ.get("JAX_NUM_CPU_DEVICES", "1"))


def keep_freed_memory() -> None:
    """Has this process keep memory that it frees, for the next step to take again.

    Otherwise glibc gives the large buffers of a step back to the system and takes them anew,
    page by page. It holds for the whole process, so a program calls it, before it computes.
    Without effect elsewhere than on Linux with glibc, or where the environment sets the
    allocator (``MALLOC_…``, ``GLIBC_TUNABLES``).
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or sys.platform != "linux":
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _KEEP.items():
            mallopt(parameter, value)


def collect_rarely() -> None:
    """Has Python look for cycles of garbage after more new objects than by default.

    To trace a step makes some hundred thousand objects that stay; to look through them again and
    again was a third of its time. It holds for the whole process, so a program calls it. Without
    effect where collection is turned off, or already rarer.
    """
    if 0 < gc.get_threshold()[0] < _OBJECTS:
        gc.set_threshold(_OBJECTS)


def wait_for_devices() -> None:
    """Lets CPU devices wait for one that is with the host, unless XLA_FLAGS says how long.

    XLA aborts a process in which a device waits for longer than a minute for another one, as where
    a black box takes its time. For a program that is to have several of them. Without effect once
    it has, or in a jaxlib later than 0.12, which would end at a flag that it does not know.
    """
    if re.match(r"0\.1[0-2]\.", jaxlib.__version__) is None:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    more = [f"--{name}={seconds}" for name, seconds in _LIMITS.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *more]).strip()


def prepare_program() -> None:
    """What a program asks of its process, before it reads its record, traces and computes."""
    if _num_cpu_devices() > 1:
        wait_for_devices()
    keep_freed_memory()
    collect_rarely()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
