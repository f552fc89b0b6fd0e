"""Joining the processes of a run, and making sure that they run the same thing."""

import argparse
import atexit
import contextlib
import json
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from deepzero_jax.training.folder import differences

_PATIENCE = 50.0  # seconds for the coordinator to answer
_LAST_WAIT = 10.0  # seconds that a process which ends waits for the others to end
_LONGEST = 2**14  # bytes of a config as JSON


def add_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Adds the flags of a program that may run as several processes, and names them."""
    group = parser.add_argument_group(
        "several processes",
        "On Slurm, Kubernetes and Cloud TPU --distributed is enough; elsewhere give all three.",
    )
    group.add_argument("--distributed", action="store_true", help="find the other processes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process_id", type=int, metavar="I", help="which this is, from 0")
    return ["--distributed", "--coordinator", "--num_processes", "--process_id"]


def join(options: argparse.Namespace) -> None:
    """Connects this process to the others, if the command line says that there are any.

    Raises:
      ValueError: flags that do not go together.
      ConnectionError: the coordinator cannot be reached.
    """
    # The loss of a process is PeerWatch's to tell; JAX would abort without a word on how to go on.
    jax.config.update("jax_enable_recoverability", True)
    explicit = (options.coordinator, options.num_processes, options.process_id)
    if all(value is None for value in explicit):
        if options.distributed:
            try:
                jax.distributed.initialize(initialization_timeout=int(_PATIENCE))
            except (ValueError, RuntimeError) as error:
                raise ValueError(
                    f"--distributed found no cluster ({error}); give --coordinator, "
                    "--num_processes and --process_id"
                ) from error
        return
    if any(value is None for value in explicit):
        raise ValueError("--coordinator, --num_processes and --process_id go together")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--coordinator must read like HOST:PORT, got {options.coordinator!r}")
    if not 0 <= options.process_id < options.num_processes:
        raise ValueError(
            f"--process_id must lie in [0, {options.num_processes}), got {options.process_id}"
        )
    if options.process_id != 0:
        _wait_for(host, int(port))
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            initialization_timeout=int(_PATIENCE),
        )
    except RuntimeError as error:
        raise ConnectionError(
            f"not all {options.num_processes} processes came together at {options.coordinator} "
            f"within {_PATIENCE:.0f} s; start the missing ones ({str(error).splitlines()[0]})"
        ) from error
    _leave_in_order()


def _leave_in_order() -> None:
    """At exit, lets the coordinator end last: JAX aborts a process that it leaves behind."""
    # Here and not in leave(): too late for an import there.
    from orbax.checkpoint import multihost

    def leave() -> None:
        if jax.process_count() == 1:
            return
        with contextlib.suppress(RuntimeError):  # the others are lost, or go on without this one
            meet = multihost.get_barrier_sync_fn()
            meet(key="leave", timeout_ms=int(1000 * _LAST_WAIT))
        if jax.process_index() == 0:
            time.sleep(1.0)
        else:
            jax.distributed.shutdown()

    # What is registered last is called first, so before JAX's own.
    atexit.register(leave)


def _wait_for(host: str, port: int) -> None:
    """A connection that is refused is tried again: process 0 may start later."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise ConnectionError(
                    f"the coordinator {host}:{port} does not answer ({error}); start process 0 "
                    "there, or mend --coordinator"
                ) from error
        time.sleep(0.5)


def check_same(config: dict[str, Any]) -> None:
    """Raises ValueError, in every process, unless all of them bring the same configuration."""
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(json.dumps(config).encode().ljust(_LONGEST), np.uint8)
    brought = [
        json.loads(bytes(np.asarray(row, np.uint8)).decode().strip())
        for row in multihost_utils.process_allgather(mine)
    ]
    for index, other in enumerate(brought):
        found = differences(brought[0], other)
        if found:
            raise ValueError(
                f"process {index} brings another config than process 0: {'; '.join(found)}"
            )
