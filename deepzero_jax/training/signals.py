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


class StopRequest:
    """While active, SIGTERM and SIGINT set ``signum`` instead of ending the process.

    A second one ends it at once; what was saved before is kept.
    """

    active: ClassVar["StopRequest | None"] = None

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Handler] = {}
        self._outer: StopRequest | None = None

    def __enter__(self) -> "StopRequest":
        for signum in SIGNALS:
            self._previous[signum] = signal.signal(signum, self._note)
        self._outer, StopRequest.active = StopRequest.active, self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        StopRequest.active = self._outer
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.signum is not None:
            exit_now(128 + signum)
        self.signum = signum

    def wait(self, array: jax.Array, whole: bool = False) -> bool:
        """Waits until ``array`` is computed; false if a signal asks to stop before that.

        With ``whole`` it waits to the end, whatever is asked.

        Polling keeps the process responsive during a step that takes minutes:
        ``block_until_ready`` would hold signals back until the step ends.
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

    While a ``StopRequest`` is active the second one does, without a line. Python runs its handlers
    between two of its own instructions; a thread that reads what the system's handler writes need
    not wait for that.

    Args:
      name: of the program, which starts the line.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for signum in SIGNALS:
        signal.signal(signum, lambda signum, frame: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        noted: StopRequest | None = None
        while byte := reader.recv(1):
            signum, active = byte[0], StopRequest.active
            if signum not in SIGNALS:
                continue
            if active is None:
                print(
                    f"{name}: stopped by {signal.Signals(signum).name}; what is saved is kept, and "
                    "the same command goes on from there",
                    file=sys.stderr,
                )
            if active is None or active is noted:
                exit_now(128 + signum)
            noted = active

    # Both ends live as long as the process.
    leave_at_once.ends = reader, writer  # pyright: ignore[reportFunctionMemberAccess]
    threading.Thread(target=watch, daemon=True).start()


def exit_now(status: int) -> NoReturn:
    """Ends the process without waiting for a step that is still being computed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            continue
    os._exit(status)
