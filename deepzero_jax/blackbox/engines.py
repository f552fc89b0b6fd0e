"""Where calls of a host function run: in place, in threads, by an executor, by a map.

Every engine runs rounds of calls and hands out ``(position, outcome)`` as they come, an
outcome being the answer, or the exception that stands for it. A call is fetched from the
iterator when a worker is free for it, so what is never fetched was never asked.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import jax
import numpy as np

from deepzero_jax.blackbox.errors import BlackBoxError, portable
from deepzero_jax.types import PyTree

# ``(position, arguments of the host function)``.
Call = tuple[int, tuple[PyTree, ...]]
Outcome = tuple[int, PyTree]
# Calls that may run on after they were given up, at most; the next one is refused.
MOST_ABANDONED = 8
# Seconds that a call which the host function was told to end has for it.
END_OF_CALL = 2.0

# Of a host function that can end a call: told the identity of the thread that is in it.
GiveUp = Callable[[int], None]


class NoAnswerInTimeError(OSError):
    """A call that ran past its deadline."""


@dataclass(frozen=True)
class Cancelled:
    """The outcome of a call that was fetched, and that no worker began."""


class Calls(NamedTuple):
    """The calls of a round.

    Attributes:
      fetched: they count as sent when they are fetched.
      take_back: told the position of one that was fetched and that no worker has begun with.
    """

    fetched: Iterator[Call]
    take_back: Callable[[int], None] = lambda position: None


class Engine(Protocol):
    """What runs the calls of a box."""

    def run(
        self, fun: Callable[..., PyTree], calls: Calls, timeout: float | None
    ) -> Generator[Outcome]:
        """Runs calls of ``fun``, each at most ``timeout`` seconds.

        Closed before its end, it takes back the fetched calls that no worker has begun with.
        """
        ...


@dataclass(frozen=True)
class Kept:
    """A host function whose answers are arrays of their own: it may write the next into the same.

    What cannot be copied is handed on as it is.
    """

    fun: Callable[..., PyTree]

    def __call__(self, *args: PyTree) -> PyTree:
        """What the function answers."""
        answer = self.fun(*args)
        with contextlib.suppress(Exception):
            return jax.tree.map(_copied, answer)
        return answer


def _copied(leaf: PyTree) -> PyTree:
    return np.array(leaf) if hasattr(leaf, "__array__") else leaf


def attempt(fun: Callable[..., PyTree], args: tuple[PyTree, ...]) -> PyTree:
    """What a function returns, or the exception that it raised."""
    try:
        return fun(*args)
    except Exception as error:
        return error


class InPlace:
    """Runs calls one after the other in the thread that asks; nothing can be given up."""

    def run(
        self, fun: Callable[..., PyTree], calls: Calls, timeout: float | None
    ) -> Generator[Outcome]:
        """See ``Engine``."""
        del timeout
        for position, args in calls.fetched:
            yield position, attempt(fun, args)


class _Round:
    """The calls of one round, fetched and run by threads of its own."""

    def __init__(
        self, fun: Callable[..., PyTree], calls: Iterator[Call], timeout: float | None
    ) -> None:
        self.fun, self.calls, self.timeout = fun, calls, timeout
        self.lock = threading.Lock()
        self.is_closed = False
        # ``(position, outcome)``; position None: a thread has ended, for a reason or for none.
        self.results: queue.SimpleQueue[tuple[int | None, PyTree]] = queue.SimpleQueue()
        # What runs: thread and deadline of each position.
        self.running: dict[int, tuple[threading.Thread, float]] = {}
        # A thread goes on when an outcome has been looked at: it may be the last of the round.
        self.go_on, self.num_threads = threading.Semaphore(0), 0

    def start(self) -> None:
        """Starts one thread more."""
        self.num_threads += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                with self.lock:
                    call = None if self.is_closed else next(self.calls, None)
                    if call is not None:
                        end = time.monotonic() + (self.timeout or float("inf"))
                        self.running[call[0]] = threading.current_thread(), end
            except BaseException as error:  # of the iterator: a budget that is spent
                self.results.put((None, error))
                return
            if call is None:
                self.results.put((None, None))
                return
            try:
                outcome = self.fun(*call[1])
            except BaseException as error:
                outcome = error
            with self.lock:
                if self.running.pop(call[0], None) is None:
                    return  # it was given up
            self.results.put((call[0], outcome))
            self.go_on.acquire()

    def wait(self) -> tuple[int | None, PyTree] | None:
        """The next result, or None when a deadline passes before."""
        with self.lock:
            first = min((end for _, end in self.running.values()), default=float("inf"))
        remaining = first - time.monotonic()
        # A call may have begun since: look again before its deadline could have passed.
        limit = None if self.timeout is None else max(min(remaining, self.timeout), 0.0)
        try:
            return self.results.get(timeout=limit)
        except queue.Empty:
            return None

    def overdue(self) -> dict[int, threading.Thread]:
        """Takes out the calls whose deadline has passed."""
        now = time.monotonic()
        with self.lock:
            late = {p: thread for p, (thread, end) in self.running.items() if end <= now}
            for position in late:
                del self.running[position]
        return late

    def close(self) -> list[threading.Thread]:
        """Lets no further call begin; the threads of those that run."""
        with self.lock:
            self.is_closed = True
            threads = [thread for thread, _ in self.running.values()]
            self.running.clear()
        self.go_on.release(max(self.num_threads, 1))
        return threads


class Threads:
    """Runs calls in daemon threads, which do not keep a process alive.

    Args:
      num_threads: at the same time.
      thread_safe: whether the function may run while a call that was given up still does.
      give_up: ends a call of the function; None: nothing does.
    """

    def __init__(self, num_threads: int, thread_safe: bool, give_up: GiveUp | None = None) -> None:
        self.num_threads, self.thread_safe, self._end_call = num_threads, thread_safe, give_up
        self._abandoned: list[threading.Thread] = []

    def run(
        self, fun: Callable[..., PyTree], calls: Calls, timeout: float | None
    ) -> Generator[Outcome]:
        """See ``Engine``."""
        now = _Round(fun, calls.fetched, timeout)
        self._wait_for_abandoned(timeout)
        missing, active = self.num_threads, 0
        try:
            while True:
                for _ in range(missing):
                    if self._hindrance() is None:
                        now.start()
                        active += 1
                missing = 0
                if not active:  # what was not fetched is left to the next round
                    return
                result = now.wait()
                if result is None:
                    late = now.overdue()
                    self._give_up(list(late.values()))
                    active -= len(late)
                    missing = len(late)
                    for position in late:
                        yield position, NoAnswerInTimeError(f"no answer within {timeout:g} s")
                elif result[0] is None:
                    active -= 1
                    if result[1] is not None:
                        raise result[1]
                else:
                    yield result[0], result[1]
                    now.go_on.release()
        finally:
            self._give_up(now.close())

    def _give_up(self, threads: list[threading.Thread]) -> None:
        self._abandoned += threads
        if self._end_call is None:
            return
        for thread in threads:
            self._end_call(cast(int, thread.ident))
        end = time.monotonic() + END_OF_CALL
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0.0))

    def _wait_for_abandoned(self, timeout: float | None) -> None:
        if self._hindrance() is not None:
            self._abandoned[0].join(timeout)
        if (reason := self._hindrance()) is not None:
            raise BlackBoxError(reason)

    def _hindrance(self) -> str | None:
        """Why no further call may begin now, or None."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        if self._abandoned and not self.thread_safe:
            return (
                "a call of the black box that was given up is still running, and the box is not "
                "declared thread_safe, so it is not called again; mend its hanging, or give "
                "thread_safe=True"
            )
        if len(self._abandoned) >= MOST_ABANDONED:
            return (
                f"{len(self._abandoned)} calls of the black box that were given up are still "
                "running; the box is not called again"
            )
        return None


@dataclass(frozen=True)
class _Attempt:
    """``attempt`` of a function, as processes can be sent it."""

    fun: Callable[..., PyTree]

    def __call__(self, args: tuple[PyTree, ...]) -> PyTree:
        outcome = attempt(self.fun, args)
        return portable(outcome) if isinstance(outcome, Exception) else outcome


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
        self, fun: Callable[..., PyTree], calls: Calls, timeout: float | None
    ) -> Generator[Outcome]:
        """See ``Engine``."""
        chosen: list[Call] = []
        try:
            chosen.extend(calls.fetched)
        except BaseException:  # a budget that is spent: none of them is sent
            for position, _ in chosen:
                calls.take_back(position)
            raise
        positions = [position for position, _ in chosen]
        arguments = [args for _, args in chosen]
        whole = lambda: list(self._map(_Attempt(fun), arguments))
        if timeout is None:
            outcomes = attempt(whole, ())
        else:
            limit = timeout * max(len(chosen), 1)
            outcomes = next(self._threads.run(whole, Calls(iter([(0, ())])), limit))[1]
        if isinstance(outcomes, BaseException):
            outcomes = [outcomes] * len(chosen)
        elif len(outcomes) != len(chosen):
            wrong = ValueError(f"workers gave {len(outcomes)} results for {len(chosen)} calls")
            outcomes = [wrong] * len(chosen)
        yield from zip(positions, outcomes, strict=True)
