"""Long work and the person who waits: what is done, how far it is, how long it will take.

A program opens a ``bar`` around long work and says where its lines go. What works inside may
``tell`` how far it is, whoever watches or nobody: it prints nothing itself.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from tqdm import tqdm

from deepzero_jax.types import Log

# Seconds of silence before the first line, and between lines of a log.
PATIENCE, INTERVAL = 5.0, 30.0


def format_seconds(seconds: float) -> str:
    """Seconds in the unit a person would say: ``"320 ms"``, ``"41.0 s"``, ``"1 h 40 min"``."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


class Bar:
    """How far a piece of work is; from ``bar``.

    Args:
      name: of the work, as in "compiling the step".
      total: of its units; None while nobody knows.
      unit: in the plural, as in "queries".
    """

    def __init__(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.name, self.total, self.unit = name, total, unit
        self._done, self._started = 0, time.time()
        # When the first units were done, and how many: before them a program is compiled.
        self._first: tuple[float, int] | None = None
        self._lock = threading.Lock()

    def advance(self, count: int = 1) -> None:
        """Adds to what is done; from any thread."""
        with self._lock:
            self._done += int(count)
            self._first = self._first or (time.time(), self._done)

    @property
    def done(self) -> int:
        """Units done, the total at most."""
        return self._done if self.total is None else min(self._done, self.total)

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.time() - self._started

    @property
    def started(self) -> float:
        """When the work began, in seconds since 1970."""
        return self._started

    @property
    def rate(self) -> float | None:
        """Units a second since the first were done; None while nobody knows."""
        if self._first is None or self._done <= self._first[1]:
            return None
        started, before = self._first
        return (self._done - before) / max(time.time() - started, 1e-9)

    def line(self) -> str:
        """How far it is."""
        done, rate = self.done, self.rate
        counted = f" {done:,} of {self.total:,} {self.unit}," if self.total else ""
        if rate is None or not self.total:
            return f"{self.name}:{counted} {format_seconds(self.seconds)} so far"
        left, percent = format_seconds((self.total - done) / rate), 100 * done // self.total
        return (
            f"{self.name}: {done:,} of {self.total:,} {self.unit} ({percent} %), "
            f"{rate:.3g} a second, {left} to go"
        )

    def last_line(self) -> str:
        """That it is done."""
        counted = f"{self.done:,} {self.unit} " if self.done else ""
        return f"{self.name}: {counted}done in {format_seconds(self.seconds)}"


_innermost: ContextVar[Bar | None] = ContextVar("innermost", default=None)


def tell(count: int = 1, total: int | None = None, unit: str = "") -> None:
    """Tells the innermost bar around this call, if there is one, that so many units are done.

    Args:
      count: of units.
      total: of units in the whole work, where the bar does not know it yet.
      unit: likewise.
    """
    watched = _innermost.get()
    if watched is None:
        return
    if watched.total is None and total is not None:
        watched.total, watched.unit = total, unit
    watched.advance(count)


@contextmanager
def bar(
    name: str,
    log: Log,
    total: int | None = None,
    unit: str = "",
    *,
    patience: float = PATIENCE,
    interval: float = INTERVAL,
) -> Iterator[Bar]:
    """Shows how far the work inside is: a bar in a terminal, otherwise lines of a log.

    Work that ends within ``patience`` shows nothing. Of several processes the lead shows it.

    Args:
      name: of the work.
      log: takes a line where standard error is no terminal.
      total: of its units; None while nobody knows.
      unit: in the plural.
      patience: seconds before anything is shown.
      interval: seconds between lines of a log.

    Example:
      >>> with bar("counting", print, total=2, unit="sheep") as counted:
      ...     counted.advance(2)
    """
    watched, ended = Bar(name, total, unit), threading.Event()
    is_terminal = sys.stderr.isatty()
    show = _show_bar if is_terminal else _show_lines
    shown = threading.Event()

    def watch() -> None:
        if not ended.wait(patience):
            shown.set()
            show(watched, ended, log, interval)

    thread = threading.Thread(target=watch, name=f"bar {name}", daemon=True)
    token = _innermost.set(watched)
    if jax.process_index() == 0:
        thread.start()
    try:
        yield watched
    finally:
        _innermost.reset(token)
        ended.set()
        if thread.is_alive():
            thread.join()
    if shown.is_set():
        (tqdm.write if is_terminal else log)(watched.last_line())


def _show_lines(watched: Bar, ended: threading.Event, log: Log, interval: float) -> None:
    try:
        log(watched.line())
        while not ended.wait(interval):
            log(watched.line())
    except OSError:  # nobody reads any more: the program itself will find out
        return


def _show_bar(watched: Bar, ended: threading.Event, log: Log, interval: float) -> None:
    del log, interval
    shown = tqdm(total=watched.total, desc=watched.name, unit=f" {watched.unit}", leave=False)
    shown.start_t = watched.started
    while True:
        shown.total = watched.total
        shown.update(watched.done - shown.n)
        shown.refresh()
        if ended.wait(1.0):
            break
    shown.close()
