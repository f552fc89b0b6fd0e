"""Calls of a host function by any ``concurrent.futures.Executor``."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from deepzero_jax.blackbox.engines import (
    END_OF_CALL,
    MOST_ABANDONED,
    Call,
    Calls,
    Cancelled,
    GiveUp,
    NoAnswerInTimeError,
    Outcome,
)
from deepzero_jax.blackbox.errors import BlackBoxError, portable
from deepzero_jax.types import PyTree


@dataclass(frozen=True)
class _Once:
    """A function under a name of its own: Dask answers the same call from its memory."""

    fun: Callable[..., PyTree]
    name: str

    def __call__(self, *args: Any) -> PyTree:
        _inside[self.name] = threading.get_ident()
        try:
            return self.fun(*args)
        except Exception as error:
            sent = portable(error)
            if sent is error:
                raise
            raise sent from None
        finally:
            del _inside[self.name]


# The threads of this process that are in a call, by the call's name.
_inside: dict[str, int] = {}


@dataclass
class _Sent:
    position: int
    since: float
    name: str


@dataclass
class _Shared:
    """What the boxes of this process know of an executor that several of them may be given.

    Attributes:
      abandoned: calls that one of them has given up.
      successor: the executor in its place, once one of them has found it broken or ended it.
    """

    abandoned: list[Future[PyTree]] = field(default_factory=list)
    successor: Executor | None = None


_shared: WeakKeyDictionary[Executor, _Shared] = WeakKeyDictionary()
_shared_lock = threading.RLock()


def _known(executor: Executor) -> _Shared:
    with _shared_lock:
        return _shared.setdefault(executor, _Shared())


def latest(executor: Executor) -> Executor:
    """The executor that stands in the place of one that was given, which may be itself."""
    while (successor := _known(executor).successor) is not None:
        executor = successor
    return executor


def renew(executor: Executor) -> Executor:
    """The executor in place of one that is broken or ended, the same one for all boxes."""
    with _shared_lock:
        known = _known(executor)
        if known.successor is None:
            renewed = renewed_executor(executor)
            known.successor = None if renewed is executor else renewed
        return latest(executor)


class Executed:
    """Runs calls by an executor; one that breaks, as a killed worker leaves it, is renewed.

    Where the number of its workers is known (``ThreadPoolExecutor``, ``ProcessPoolExecutor``,
    loky), no more calls are handed over than there are workers, and the clock of a call
    starts with it. Elsewhere (Dask, MPI) all are, and a call is late when none has been
    answered for its time.

    Args:
      executor: where the host function runs.
      give_up: ends a call in a thread of this process; None: nothing does.
    """

    def __init__(self, executor: Executor, give_up: GiveUp | None = None) -> None:
        self.executor, self._end_call = executor, give_up

    def run(
        self, fun: Callable[..., PyTree], calls: Calls, timeout: float | None
    ) -> Generator[Outcome]:
        """See ``Engine``."""
        sent: dict[Future[PyTree], _Sent] = {}
        self.executor = latest(self.executor)
        workers = num_workers(self.executor)
        broken = False
        try:
            while True:
                while workers is None or len(sent) < max(workers - self._num_abandoned(), 1):
                    self._make_room(workers)
                    call = None if broken else next(calls.fetched, None)
                    if call is None:
                        break
                    once = _Once(fun, uuid.uuid4().hex)
                    sent[self._submit(once, call)] = _Sent(call[0], time.monotonic(), once.name)
                if not sent:
                    return
                for position, outcome in self._next_outcomes(sent, timeout, workers is None):
                    # What else was in flight has failed with it: let it come in before renewing.
                    broken |= isinstance(outcome, BrokenExecutor)
                    yield position, outcome
                if broken and not sent:
                    self.executor = renew(self.executor)
                    broken = False
        finally:
            # Dask lets itself be asked to cancel what is running, and says that it did.
            begun = [future for future in sent if not future.cancel() or workers is None]
            for future, one in sent.items():
                if future not in begun:
                    calls.take_back(one.position)
            self._abandon({f: sent[f].name for f in begun if not f.cancelled()})

    def _submit(self, once: _Once, call: Call) -> "Future[PyTree]":
        self.executor = latest(self.executor)  # another box may just have ended it
        try:
            return self.executor.submit(once, *call[1])
        except Exception as error:  # a broken executor refuses: a failed call like others
            failed: Future[PyTree] = Future()
            failed.set_exception(error)
            return failed

    def _next_outcomes(
        self, sent: dict["Future[PyTree]", _Sent], timeout: float | None, in_queue: bool
    ) -> Iterator[Outcome]:
        remaining = None
        if timeout is not None:
            remaining = max(min(one.since for one in sent.values()) + timeout - time.monotonic(), 0)
        done, _ = wait(list(sent), remaining, FIRST_COMPLETED)
        now = time.monotonic()
        for future in done:
            yield sent.pop(future).position, _outcome(future)
        if done and in_queue:  # those that wait may have begun just now
            for one in sent.values():
                one.since = now
        if done or timeout is None:
            return
        for future in [f for f, one in sent.items() if now >= one.since + timeout]:
            one = sent.pop(future)
            # Dask lets itself be asked to cancel what is running, and says that it did.
            if future.cancel() and not in_queue:
                yield one.position, Cancelled()
                continue
            self._abandon({future: one.name})
            yield one.position, NoAnswerInTimeError(f"no answer within {timeout:g} s")

    def _abandon(self, names: dict["Future[PyTree]", str]) -> None:
        with _shared_lock:
            _known(self.executor).abandoned += names
        threads = [_inside[name] for name in names.values() if name in _inside]
        if self._end_call is not None and threads:
            for thread in threads:
                self._end_call(thread)
            wait(list(names), END_OF_CALL)

    def _num_abandoned(self) -> int:
        with _shared_lock:
            known = _known(self.executor)
            known.abandoned = [future for future in known.abandoned if not future.done()]
            return len(known.abandoned)

    def _make_room(self, workers: int | None) -> None:
        """Ends hanging worker processes; of other workers no more than a few may hang."""
        hanging = self._num_abandoned()
        if not hanging:
            return
        if is_process_pool(self.executor):
            end_processes(self.executor)
            self.executor = renew(self.executor)
        elif hanging >= (MOST_ABANDONED if workers is None else workers):
            raise BlackBoxError(
                f"{hanging} calls of the black box that were given up are still running in "
                f"{type(self.executor).__name__}, which has no worker left"
            )


def _outcome(future: "Future[PyTree]") -> PyTree:
    try:
        error = future.exception()
    except CancelledError as cancelled:
        return RuntimeError(f"cancelled {cancelled}".strip())
    return future.result() if error is None else error


def num_workers(executor: Executor) -> int | None:
    """How many calls an executor runs at once, or None where it does not say."""
    found = getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) and found > 0 else None


def is_process_pool(executor: Executor) -> bool:
    """Whether the workers are processes of this machine, which may be ended."""
    return isinstance(executor, ProcessPoolExecutor) or _is_loky(executor)


def _is_loky(executor: Executor) -> bool:
    return any(kind.__module__.startswith("loky.") for kind in type(executor).__mro__)


def end_processes(executor: Executor) -> None:
    """Ends the worker processes of a pool, which hang."""
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        if process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
    options = {"kill_workers": True} if _is_loky(executor) else {"cancel_futures": True}
    executor.shutdown(wait=False, **options)


def renewed_executor(executor: Executor) -> Executor | None:
    """An executor like one that broke; None where it mends itself, as Dask's does."""
    if isinstance(executor, ProcessPoolExecutor):
        kept: Any = executor
        return ProcessPoolExecutor(
            kept._max_workers, kept._mp_context, kept._initializer, kept._initargs
        )
    if _is_loky(executor):
        import loky

        return loky.get_reusable_executor(max_workers=num_workers(executor))
    return None
