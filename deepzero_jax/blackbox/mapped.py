"""Calls of a host function by a callable like ``map``."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from deepzero_jax.blackbox.engines import Call, Calls, Outcome, attempt
from deepzero_jax.blackbox.errors import portable
from deepzero_jax.blackbox.threads import Threads
from deepzero_jax.types import PyTree


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
