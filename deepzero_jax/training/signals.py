"""Stopping on request: a signal is noted, the run saves and leaves."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ClassVar, NoReturn

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Handler = Callable[[int, FrameType | None], object] | int | None
_END = 0  # no signal has this number


class _Listener:
    """Tells of signals from a thread of its own, as they come.

    Python runs handlers in the main thread, between two of its own instructions: not while that
    one is in a compiled program. The system's handler writes numbers, which a thread may read.

    Args:
      react: told the number of each signal.
    """

    num_open: ClassVar[int] = 0

    def __init__(self, react: Callable[[int], None]) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(react,), daemon=True)
        self._thread.start()
        _Listener.num_open += 1

    def _watch(self, react: Callable[[int], None]) -> None:
        while signum := self._reader.recv(1)[0]:
            if signum in SIGNALS:
                react(signum)

    def close(self) -> None:
        """The one before hears again."""
        signal.set_wakeup_fd(self._previous, warn_on_full_buffer=False)
        self._writer.send(bytes([_END]))
        self._thread.join()
        self._reader.close()
        self._writer.close()
        _Listener.num_open -= 1


def _forget() -> None:
    """In a fork: what it is told is not meant for the process that it comes from."""
    if _Listener.num_open:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class StopRequest:
    """While active, SIGTERM and SIGINT set ``signum`` instead of ending the process.

    A second one ends it at once, whatever the main thread is in; what was saved before is kept.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Handler] = {}
        self._listener: _Listener | None = None
        # By way, as each signal comes both to the thread and, later, to the handler.
        self._times = {"thread": 0, "handler": 0}

    def __enter__(self) -> "StopRequest":
        self._listener = _Listener(lambda signum: self._note(signum, "thread"))
        handler = lambda signum, frame: self._note(signum, "handler")
        for signum in SIGNALS:
            self._previous[signum] = signal.signal(signum, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._listener is not None:
            self._listener.close()

    def _note(self, signum: int, way: str) -> None:
        self._times[way] += 1
        if self._times[way] > 1:
            exit_now(128 + signum)
        if self.signum is None:
            self.signum = signum

    def wait(self, array: jax.Array, whole: bool = False) -> bool:
        """Waits until ``array`` is computed; false if a signal asks to stop before that.

        With ``whole`` it waits to the end, whatever is asked.

        Polling keeps the process responsive during a step that takes minutes:
        ``block_until_ready`` would hold signals back until the step ends. A step that asks a
        black box on one CPU device is over before this is called: there the box looks whether to
        stop, see ``stop_asking_when``.
        """
        started = time.monotonic()
        while not array.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
            if self.signum is not None and not whole:
                return False
            # A tenth of the time waited so far: what is found late is little of the step.
            time.sleep(min(max(0.1 * (time.monotonic() - started), 1e-4), 0.05))
        return True


def leave_at_once(name: str) -> None:
    """From now on SIGTERM and SIGINT end the process with one line, also while it compiles.

    Unless a ``StopRequest`` is active.

    Args:
      name: of the program, which starts the line.
    """

    def leave(signum: int) -> None:
        print(
            f"{name}: stopped by {signal.Signals(signum).name}; what is saved is kept, and "
            "the same command goes on from there",
            file=sys.stderr,
        )
        exit_now(128 + signum)

    for signum in SIGNALS:
        signal.signal(signum, lambda signum, frame: None)
    # It lives as long as the process.
    leave_at_once.listener = _Listener(leave)  # pyright: ignore[reportFunctionMemberAccess]


def exit_now(status: int) -> NoReturn:
    """Ends the process without waiting for a step that is still being computed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            continue
    os._exit(status)
