"""Stopping on request: a signal is noted, the run saves and leaves."""

import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

import jax


class StopRequest:
    """While active, SIGTERM and SIGINT set ``signum`` instead of ending the process."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
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


def exit_now(status: int) -> NoReturn:
    """Ends the process without waiting for a step that is still being computed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
