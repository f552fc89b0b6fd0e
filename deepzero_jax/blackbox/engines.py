"""Where calls of a host function run: in place, in threads, by an executor, by a map.

Every engine runs rounds of calls and hands out ``(position, outcome)`` as they come, an
outcome being the answer, or the exception that stands for it. A call is fetched from the
iterator when a worker is free for it, so what is never fetched was never asked.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from deepzero_jax.blackbox.errors import BlackBoxError
from deepzero_jax.types import PyTree

# ``(position, arguments of the host function)``.
Call = tuple[int, tuple[PyTree, ...]]
Outcome = tuple[int, PyTree]
# Calls that may run on after they were given up, at most; the next one is refused.
MOST_ABANDONED = 8


class NoAnswerInTimeError(OSError):
    """A call that ran past its deadline."""


@dataclass(frozen=True)
class Cancelled:
    """The outcome of a call that was fetched, and that no worker began."""


class Engine(Protocol):
    """What runs the calls of a box."""

    def run(
        self, fun: Callable[..., PyTree], calls: Iterator[Call], timeout: float | None
    ) -> Iterator[Outcome]:
        """Runs calls of ``fun``, each at most ``timeout`` seconds."""
        ...


def attempt(fun: Callable[..., PyTree], args: tuple[PyTree, ...]) -> PyTree:
    """What a function returns, or the exception that it raised."""
    try:
        return fun(*args)
    except Exception as error:
        return error


class InPlace:
    """Runs calls one after the other in the thread that asks; nothing can be given up."""

    def run(
        self, fun: Callable[..., PyTree], calls: Iterator[Call], timeout: float | None
    ) -> Iterator[Outcome]:
        """See ``Engine``."""
        del timeout
        for position, args in calls:
            yield position, attempt(fun, args)


@dataclass
class _Running:
    position: int
    deadline: float


class Threads:
    """Runs calls in daemon threads, which do not keep a process alive.

    Args:
      num_threads: at the same time.
      thread_safe: whether the function may run while a call that was given up still does.
    """

    def __init__(self, num_threads: int, thread_safe: bool) -> None:
        self.num_threads, self.thread_safe = num_threads, thread_safe
        self._abandoned: list[threading.Thread] = []

    def run(
        self, fun: Callable[..., PyTree], calls: Iterator[Call], timeout: float | None
    ) -> Iterator[Outcome]:
        """See ``Engine``."""
        results: queue.SimpleQueue[tuple[threading.Thread, PyTree]] = queue.SimpleQueue()
        running: dict[threading.Thread, _Running] = {}

        def work(args: tuple[PyTree, ...]) -> None:
            try:
                outcome = fun(*args)
            except BaseException as error:
                outcome = error
            results.put((threading.current_thread(), outcome))

        try:
            while True:
                while len(running) < self.num_threads:
                    self._wait_for_abandoned(timeout)
                    call = next(calls, None)
                    if call is None:
                        break
                    thread = threading.Thread(target=work, args=(call[1],), daemon=True)
                    deadline = time.monotonic() + timeout if timeout else float("inf")
                    running[thread] = _Running(call[0], deadline)
                    thread.start()
                if not running:
                    return
                yield from self._next_outcomes(running, results, timeout)
        finally:
            self._abandoned += running

    def _next_outcomes(
        self,
        running: dict[threading.Thread, _Running],
        results: "queue.SimpleQueue[tuple[threading.Thread, PyTree]]",
        timeout: float | None,
    ) -> Iterator[Outcome]:
        first = min(one.deadline for one in running.values())
        try:
            wait = None if timeout is None else max(first - time.monotonic(), 0.0)
            thread, outcome = results.get(timeout=wait)
        except queue.Empty:
            now = time.monotonic()
            for thread in [t for t, one in running.items() if one.deadline <= now]:
                self._abandoned.append(thread)
                late = NoAnswerInTimeError(f"no answer within {timeout:g} s")
                yield running.pop(thread).position, late
            return
        if thread in running:  # otherwise an answer that comes too late
            yield running.pop(thread).position, outcome

    def _wait_for_abandoned(self, timeout: float | None) -> None:
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        if self._abandoned and not self.thread_safe:
            self._abandoned[0].join(timeout)
            if self._abandoned[0].is_alive():
                raise BlackBoxError(
                    "a call of the black box that was given up is still running, and the box is "
                    "not declared thread_safe, so it is not called again; mend its hanging, or "
                    "give thread_safe=True"
                )
        elif len(self._abandoned) >= MOST_ABANDONED:
            raise BlackBoxError(
                f"{len(self._abandoned)} calls of the black box that were given up are still "
                "running; the box is not called again"
            )


@dataclass(frozen=True)
class _Attempt:
    """``attempt`` of a function, as processes can be sent it."""

    fun: Callable[..., PyTree]

    def __call__(self, args: tuple[PyTree, ...]) -> PyTree:
        return attempt(self.fun, args)


class Mapped:
    """Runs calls by a callable like ``map``: ``multiprocessing.Pool.map``, Ray's, MPI's.

    A map says nothing of when a call begins. Its deadline is that of its calls one after the
    other, for all of them.

    Args:
      map_calls: ``(function, iterable) -> iterable`` of the results in order.
    """

    def __init__(self, map_calls: Callable[..., PyTree]) -> None:
        self._map = map_calls
        self._threads = Threads(1, thread_safe=True)

    def run(
        self, fun: Callable[..., PyTree], calls: Iterator[Call], timeout: float | None
    ) -> Iterator[Outcome]:
        """See ``Engine``."""
        chosen = list(calls)
        positions = [position for position, _ in chosen]
        arguments = [args for _, args in chosen]
        whole = lambda: list(self._map(_Attempt(fun), arguments))
        if timeout is None:
            outcomes = attempt(whole, ())
        else:
            limit = timeout * max(len(chosen), 1)
            outcomes = next(self._threads.run(whole, iter([(0, ())]), limit))[1]
        if isinstance(outcomes, BaseException):
            outcomes = [outcomes] * len(chosen)
        elif len(outcomes) != len(chosen):
            wrong = ValueError(f"workers gave {len(outcomes)} results for {len(chosen)} calls")
            outcomes = [wrong] * len(chosen)
        yield from zip(positions, outcomes, strict=True)
