"""Watching over the processes of a run: a lost one ends the others, with a word on how to go on."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax

from deepzero_jax.training import sentinel
from deepzero_jax.training.sentinel import lost_message, read_beat

_BEAT = 2.0  # seconds
_FINISHED = "finished"


class PeerWatch:
    """Beats in a folder that all processes share, and listens for the beats of the others.

    Args:
      folder: of the run, on a file system that every process sees.
      lost: called, in a thread, with a message when a process has been silent.
      patience: seconds of silence after which a process counts as lost.
      index: of this process; None: as JAX has it.
      count: of processes; None: as JAX has it.
    """

    def __init__(
        self,
        folder: Path,
        lost: Callable[[str], None],
        patience: float = 40.0,
        index: int | None = None,
        count: int | None = None,
    ) -> None:
        self._folder = folder / ".peers"
        self._lost = lost
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

    def is_about_peers(self, error: Exception) -> bool:
        """Whether an error may come of the loss of another process."""
        words = ("gloo", "nccl", "coordination", "unavailable", "deadline", "connection", "peer")
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
                    self._lost(lost_message(i, self._count, silent))
                    return
