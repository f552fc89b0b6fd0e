"""The processes of a run: joining them, the same config for all, watching over one another.

A lost process ends the others, with a word on how to go on.
"""

import atexit
import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from deepzero_jax.blackbox import BlackBoxError
from deepzero_jax.platform import wait_for_devices
from deepzero_jax.training import sentinel
from deepzero_jax.training.errors import StepFailedError
from deepzero_jax.training.folder import Json, differences
from deepzero_jax.training.rendezvous import connect, meet
from deepzero_jax.training.sentinel import lost_message, read_beat
from deepzero_jax.types import Log

_PATIENCE = 50.0  # seconds for the coordinator to answer
_LAST_WAIT = 10.0  # seconds that a process which ends waits for the others to end
_LONGEST = 2**14  # bytes of a config as JSON
_BEAT = sentinel.BEAT
_FINISHED = "finished"


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    discover: bool = False,
) -> None:
    """Connects this process to the others, if there are any.

    Args:
      coordinator: address of process 0, ``"host:port"``.
      num_processes: how many there are.
      process_id: which this is, from 0.
      discover: find the three on Slurm, Kubernetes or Cloud TPU.

    Raises:
      ValueError: arguments that do not go together.
      ConnectionError: the coordinator cannot be reached.
    """
    # The loss of a process is PeerWatch's to tell; JAX would abort without a word on how to go on.
    jax.config.update("jax_enable_recoverability", True)
    explicit = (coordinator, num_processes, process_id)
    if all(value is None for value in explicit):
        if discover:
            wait_for_devices()
            try:
                jax.distributed.initialize(initialization_timeout=int(_PATIENCE))
            except (ValueError, RuntimeError) as error:
                raise ValueError(
                    f"--distributed found no cluster ({error}); give --coordinator, "
                    "--num_processes and --process_id"
                ) from error
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError("--coordinator, --num_processes and --process_id go together")
    host, port = _address(coordinator)
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id must lie in [0, {num_processes}) and --num_processes be at least 1, "
            f"got {process_id} and {num_processes}"
        )
    if num_processes > 1:
        wait_for_devices()
    meet(host, port, num_processes, process_id, _PATIENCE)
    if process_id != 0:
        connect(host, port, _PATIENCE, lambda peer: None)  # JAX would end the process
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=int(_PATIENCE),
        )
    except RuntimeError as error:
        raise ConnectionError(
            f"not all {num_processes} processes came together at {coordinator} "
            f"within {_PATIENCE:.0f} s; start the missing ones ({str(error).splitlines()[0]})"
        ) from error
    _leave_in_order()


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    # Other digits than these reach a parser in JAX that crashes.
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not host or not 1 <= number <= 65_535:
        raise ValueError(
            f"--coordinator must read like HOST:PORT, a port from 1 to 65535, got {coordinator!r}"
        )
    return host, number


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


def check_same(config: Json) -> None:
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


class PeerWatch:
    """Beats in a folder that all processes share, and listens for the beats of the others.

    Args:
      folder: of the run, on a file system that every process sees.
      abort: called, in a thread, with a message when a process has been silent.
      patience: seconds of silence after which a process counts as lost.
      index: of this process; None: as JAX has it.
      count: of processes; None: as JAX has it.
    """

    def __init__(
        self,
        folder: Path,
        abort: Log,
        patience: float = 40.0,
        index: int | None = None,
        count: int | None = None,
    ) -> None:
        self._folder = folder / ".peers"
        self._abort = abort
        self._patience = patience
        self._index = jax.process_index() if index is None else index
        self._count = jax.process_count() if count is None else count
        self._sentinel: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeerWatch":
        if self._count > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._beat("0")
            self._thread.start()
            call = [sys.executable, sentinel.__file__, str(self._folder)]
            call += [str(self._index), str(self._count), str(3 * _BEAT)]
            # In a session of its own: a Ctrl-C that ends this process must not end it too.
            self._sentinel = subprocess.Popen(call, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._count > 1:
            self._stop.set()
            self._thread.join()
            self.say_goodbye()

    def finish(self) -> None:
        """Tells the others that this process is done; one that leaves without is lost to them."""
        if self._count > 1:
            self._stop.set()
            self._thread.join()
            self._beat(_FINISHED)

    def say_goodbye(self) -> None:
        """Lets the sentinel know that this process ends of its own accord."""
        if self._sentinel is not None and self._sentinel.stdin is not None:
            with contextlib.suppress(OSError):
                self._sentinel.stdin.write(b"goodbye")
                self._sentinel.stdin.close()
            self._sentinel.wait()
            self._sentinel = None

    def is_about_peers(self, error: BaseException) -> bool:
        """Whether an error may come of the loss of another process."""
        words = ("gloo", "nccl", "coordination", "unavailable", "deadline", "connection", "peer")
        if isinstance(error, StepFailedError | BlackBoxError):
            return False  # of what a box says, in which such words are common
        return self._count > 1 and any(word in str(error).lower() for word in words)

    def wait(self) -> None:
        """Gives the watch the time that it takes to find a lost process."""
        self._thread.join(self._patience + 5 * _BEAT)

    def _beat(self, text: str) -> None:
        (self._folder / str(self._index)).write_text(text)

    def _watch(self) -> None:
        others = [i for i in range(self._count) if i != self._index]
        started = time.monotonic()
        heard = {i: (read_beat(self._folder, i), started) for i in others}
        beats = 0
        while not self._stop.wait(_BEAT):
            beats += 1
            self._beat(str(beats))
            now = time.monotonic()
            for i in others:
                text = read_beat(self._folder, i)
                if text != heard[i][0]:
                    heard[i] = (text, now)
                # A mark left by an earlier session of the run changes with the first beat.
                silent = now - heard[i][1]
                if silent > self._patience and not (text == _FINISHED and heard[i][1] > started):
                    self.say_goodbye()
                    self._abort(lost_message(i, self._count, silent))
                    return
