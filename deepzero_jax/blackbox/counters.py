"""What a black box was asked, counted where it is asked."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from deepzero_jax.blackbox.errors import BlackBoxError
from deepzero_jax.counts import check_count

# Samples that all boxes of this process have been sent.
_total = 0
# Those of them that were left without an answer.
_total_unanswered = 0
_total_lock = threading.Lock()
_NAMES = ("num_samples", "num_answered", "num_calls", "num_abandoned", "num_dropped")


def samples_sent() -> int:
    """Samples that the boxes of this process have been sent in all, whichever they are.

    Two looks at it tell what was asked in between, also by boxes that are found in no trace.
    """
    return _total


def samples_unanswered() -> int:
    """Samples that the boxes of this process have answered by NaN (``on_failure="nan"``) in all."""
    return _total_unanswered


_watching: list[Callable[[], object]] = []


@contextmanager
def watch_counts(tell: Callable[[], object]) -> Iterator[None]:
    """Inside, ``tell()`` is called each time that a box of this process has counted.

    Before the host function is asked, so that what ``tell`` writes holds also where the process
    is killed while the answer is awaited. It is called from the thread that asks, from several
    at once where a box has several, and must not raise.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> box, seen = dz.black_box(lambda x: 2 * x, ()), []
      >>> with dz.blackbox.watch_counts(lambda: seen.append(box.num_samples)):
      ...     answers = box(jnp.ones(3))
      >>> seen[0]
      3
    """
    _watching.append(tell)
    try:
        yield
    finally:
        _watching.remove(tell)


def _tell() -> None:
    for tell in tuple(_watching):
        tell()


def _add_to_total(num_samples: int) -> None:
    global _total
    with _total_lock:
        _total += num_samples


class Counters:
    """Counts of one box, safe to use from several threads.

    Args:
      budget: samples that may be sent in all; None: no limit.

    Attributes:
      num_samples: sent to the host function, failed attempts included; what a budget counts.
      num_answered: samples of which the answer was used.
      num_calls: of the host function, failed ones included.
      num_abandoned: calls that were given up while they ran.
      num_dropped: samples without an answer that became NaN (``on_failure="nan"``).
    """

    def __init__(self, budget: int | None) -> None:
        self.set_budget(budget)
        self.num_samples = self.num_answered = self.num_calls = 0
        self.num_abandoned = self.num_dropped = 0
        self._elsewhere: dict[str, int] = dict.fromkeys(_NAMES, 0)
        self._lock = threading.Lock()

    def check(self, num_samples: int) -> None:
        """Raises BlackBoxError unless the budget holds so many samples more."""
        if self.budget is not None and self.num_samples + num_samples > self.budget:
            raise BlackBoxError(
                f"the budget of {self.budget:,} samples does not hold {num_samples:,} more after "
                f"{self.num_samples:,}; give a larger budget to go on"
            )

    def send(self, num_samples: int) -> int:
        """Counts a call that goes out; its number."""
        with self._lock:
            self.check(num_samples)
            self.num_samples += num_samples
            self.num_calls += 1
            number = self.num_calls
            _add_to_total(num_samples)
        _tell()
        return number

    def take_back(self, num_samples: int) -> None:
        """A call that was sent and that no worker ever began."""
        with self._lock:
            self.num_samples -= num_samples
            self.num_calls -= 1
            _add_to_total(-num_samples)
        _tell()

    def add(self, **counts: int) -> None:
        """Adds to counts by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
        _tell()

    def add_elsewhere(self, counts: Mapping[str, int]) -> None:
        """Adds what another process has counted."""
        with self._lock:
            for name, count in counts.items():
                self._elsewhere[name] += count
                setattr(self, name, getattr(self, name) + count)
        _tell()

    def drop(self, num_samples: int, answered: int = 0) -> None:
        """Counts samples that are left without an answer, though so many seemed answered."""
        global _total_unanswered
        with _total_lock:
            _total_unanswered += num_samples
        self.add(num_dropped=num_samples, num_answered=-answered)

    def set_budget(self, budget: int | None) -> None:
        """What may be sent in all from now on; None: any number."""
        self.budget = None if budget is None else check_count("budget", budget)

    def dump(self) -> dict[str, int]:
        """The counts, as a checkpoint is to hold them."""
        with self._lock:
            return {name: getattr(self, name) for name in _NAMES}

    def dump_own(self) -> dict[str, int]:
        """The counts without what ``add_elsewhere`` has added."""
        with self._lock:
            return {name: getattr(self, name) - self._elsewhere[name] for name in _NAMES}

    def load(self, counts: Mapping[str, int]) -> None:
        """Takes over the counts of ``dump``."""
        if missing := [name for name in _NAMES if name not in counts]:
            raise ValueError(
                f"counts of a black box lack {', '.join(missing)}; restore takes what counts() gave"
            )
        with self._lock:
            for name in _NAMES:
                setattr(self, name, int(counts[name]))
