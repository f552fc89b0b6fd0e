"""The tree in which the ways of several leaves' passes meet, from the leaves to the loss."""

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deepzero_jax.difference.meetings import State

# Where a stretch ends: in front of a junction, or with the loss.
Stop = State | None
# Branches lie in branches, and each names all values read further inside: so many deep at most,
_MOST_NESTED = 10
# unless more than this part of what all passes write would be zeros, see ``Tree.landings``.
_MOST_ZEROS = 0.02


class Stretch(NamedTuple):
    """Equations that a pass goes through, from its leaf or from a junction.

    Attributes:
      origin: position of the leaf, or the junction.
      stop: where it ends.
      places: of the equations.
    """

    origin: int | State
    stop: Stop
    places: tuple[int, ...]


class Tree:
    """The stretches that lead to each junction, and to the loss.

    Args:
      ways: to the loss, of each leaf by its position.

    Attributes:
      positions: of the leaves.
      incoming: the stretches that end at each stop; those of several leaves from one are one.
      stops: each after those from which it is reached.
    """

    def __init__(self, ways: dict[int, list[Stretch]]) -> None:
        self.positions = list(ways)
        self.incoming: dict[Stop, list[Stretch]] = {}
        for way in ways.values():
            for part in way:
                parts = self.incoming.setdefault(part.stop, [])
                if part.origin not in [known.origin for known in parts]:
                    parts.append(part)
        self.stops: list[Stop] = []
        waiting: list[Stop] = [None]
        while waiting:
            stop = waiting.pop()
            self.stops.append(stop)
            waiting += self.junctions_before(stop)
        self.stops.reverse()

    def junctions_before(self, stop: Stop) -> list[State]:
        """The junctions from which a stop is reached without another between."""
        return [p.origin for p in self.incoming[stop] if not isinstance(p.origin, int)]

    def branches(self, stop: Stop) -> np.ndarray:
        """By which of the stretches to a stop each leaf comes; −1 for one that does not."""
        found = np.full(len(self.positions), -1, np.int32)
        for number, part in enumerate(self.incoming[stop]):
            waiting: list[int | State] = [part.origin]
            while waiting:
                origin = waiting.pop()
                if isinstance(origin, int):
                    found[self.positions.index(origin)] = number
                else:
                    waiting += [p.origin for p in self.incoming[origin]]
        return found

    def landings(
        self, counts: Sequence[int], written: Sequence[int], size_of: Callable[[State], int]
    ) -> list[State]:
        """Junctions where passes land: written out there, zeros by those that do not come by.

        What lies behind a landing is not nested in what lies ahead of it, so the text of a deep
        network's program grows with the depth, not with its square.

        Args:
          counts: passes of each leaf.
          written: bytes that one of them writes.
          size_of: bytes that a pass carries at a junction.
        """
        left = _MOST_ZEROS * sum(map(operator.mul, counts, written))
        found: list[State] = []
        nested: dict[Stop, int] = {}
        for stop in self.stops:
            before = [nested[o] for o in self.junctions_before(stop) if o not in found]
            nested[stop] = 1 + max(before, default=0)
            if stop is None or nested[stop] < _MOST_NESTED:
                continue
            absent = self.branches(stop) < 0
            zeros = size_of(stop) * int(np.asarray(counts)[absent].sum())
            if zeros <= left:
                left -= zeros
                found.append(stop)
        return found
