"""A running program that is asked over its pipes, and that ends with the process that asks it."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, cast

import numpy as np

from deepzero_jax.blackbox.errors import BlackBoxError

# After so many answers a program is taken to write one each; before, it is waited for more,
# a part of the time that its answer took.
_WATCHED, _PART, _LONGEST_WATCH = 10, 0.05, 0.1
# Bytes of standard error that are kept, the last ones.
_LAST_WORDS = 4096
_TOO_MANY = (
    "it wrote more than one answer to a call, or one before it was asked: its answers, earlier "
    "ones too, may be those of other samples"
)


class HadEndedError(EOFError):
    """A program had ended before it read any of what it was sent."""


class Program:
    """A program, its pipes, and the end of what it says on standard error.

    It leads a group of processes, which ends with it.

    Args:
      command: the program and its arguments.

    Raises:
      OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._name, self._owner = command[0], os.getpid()
        self._num_answers, self._is_killed = 0, False
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        self._watch = _ends_with_this_process(self._process.pid)
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)
        self._said = _Tail(cast(IO[bytes], self._process.stderr))

    @property
    def has_ended(self) -> bool:
        """Whether it is known to run no more."""
        return self._process.poll() is not None

    def ask(self, content: bytes, read: Callable[[IO[bytes]], np.ndarray]) -> np.ndarray:
        """What it answers to what it is sent.

        Raises:
          BlackBoxError: it writes more answers than it is asked for.
          HadEndedError: it has answered before, and ended without a look at this.
          OSError, EOFError, ValueError: it gives no answer, or another than agreed.
        """
        start, sent = time.monotonic(), 0
        if self._has_more(0.0):
            raise BlackBoxError(f"{self._name}: {_TOO_MANY}")
        try:
            while sent < len(content):
                sent += os.write(self._stdin.fileno(), memoryview(content)[sent:])
            if not cast(Any, self._stdout).peek(1):
                raise EOFError("no answer")
            answers = read(self._stdout)
        except (OSError, EOFError) as error:
            if self._num_answers and not self._is_killed and self._has_read_nothing(sent):
                raise HadEndedError from error
            raise
        self._num_answers += 1
        watch = self._num_answers <= _WATCHED
        wait = min(_PART * (time.monotonic() - start), _LONGEST_WATCH) if watch else 0.0
        if self._has_more(wait) or (_num_unread(self._stdin) or 0) >= len(content):
            raise BlackBoxError(f"{self._name}: {_TOO_MANY}")
        return answers

    def _has_read_nothing(self, sent: int) -> bool:
        """Whether it has ended before what it was sent last."""
        try:
            status = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return False
        unread = _num_unread(self._stdin)
        return status == 0 if unread is None else unread >= sent

    def _has_more(self, seconds: float) -> bool:
        """Whether something more than blanks comes to be read in so many seconds."""
        number = self._stdout.fileno()
        try:
            os.set_blocking(number, False)
        except (AttributeError, OSError):  # where pipes cannot be asked: Windows before 3.12
            return False
        try:
            found = cast(Any, self._stdout).peek(1).strip()
            if not found and seconds:
                with selectors.DefaultSelector() as selector:
                    selector.register(number, selectors.EVENT_READ)
                    selector.select(seconds)
                found = cast(Any, self._stdout).peek(1).strip()
            return bool(found)
        finally:
            os.set_blocking(number, True)

    def last_words(self, error: BaseException) -> str:
        """How it failed, on one line."""
        try:
            told, words = f"ended with status {self._process.wait(0.5)}", self._said.lines(0.5)
        except subprocess.TimeoutExpired:
            told, words = f"answered otherwise than agreed ({error})", self._said.lines(0.0)
        return f"{self._name} {told}" + (f": {words[-1][:200]}" if words else "")

    def kill(self) -> None:
        """Ends it and what it has started; from any thread, also while it is asked."""
        if os.getpid() != self._owner:  # a copy of this process has no part in it
            return
        self._is_killed = True
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def close(self) -> None:
        """Ends it; not while it is asked."""
        self.kill()
        if os.getpid() == self._owner:
            self._process.wait()
            if self._watch is not None:
                self._watch.kill()
                self._watch.communicate()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()


class _Tail:
    """The last bytes of a pipe, read as they come: one that nobody reads would block a program."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._last = b""
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while part := os.read(pipe.fileno(), 2**16):
                self._last = (self._last + part)[-_LAST_WORDS:]

    def lines(self, seconds: float) -> list[str]:
        """What was said last; of a program that has ended the rest is waited for."""
        self._thread.join(seconds)
        return self._last.decode(errors="replace").strip().splitlines()


def _num_unread(pipe: IO[bytes]) -> int | None:
    """Bytes that were written to a pipe and not read; None where that cannot be asked."""
    try:
        import fcntl
        import termios

        found = fcntl.ioctl(pipe.fileno(), termios.FIONREAD, b"\0" * 4)
    except (ImportError, OSError):  # Windows; systems that tell it to the reader alone
        return None
    return int.from_bytes(found, byteorder=sys.byteorder)


def _ends_with_this_process(group: int) -> "subprocess.Popen[bytes] | None":
    """A process that ends a group of processes once this one has ended, in whichever way.

    Its pipe has then lost its only writer.
    """
    words = ["/bin/sh", "-c", 'read -r line; kill -s KILL -- "-$1"', "sh", str(group)]
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
    except OSError:  # Windows
        return None
