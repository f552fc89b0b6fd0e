"""Calls of a host function in threads, each with a deadline of its own."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import cast

from deepzero_jax.blackbox.engines import (
    END_OF_CALL,
    MOST_ABANDONED,
    Call,
    Calls,
    GiveUp,
    NoAnswerInTimeError,
    Outcome,
)
from deepzero_jax.blackbox.errors import BlackBoxError
from deepzero_jax.blackbox.stopping import Stops
from deepzero_jax.types import PyTree


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
            Stops().wait_for(self._abandoned[0], timeout)
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
