"""Where calls of a host function run: in place, in threads, by an executor, by a map.

Every engine runs rounds of calls and hands out ``(position, outcome)`` as they come, an
outcome being the answer, or the exception that stands for it. A call is fetched from the
iterator when a worker is free for it, so what is never fetched was never asked.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import numpy as np

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
