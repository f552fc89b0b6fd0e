"""Which samples of a call go out together, and how those that fail are cut smaller."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A piece that fails is cut into so many: few calls find the samples that fail.
_PARTS = 16


@dataclass(frozen=True)
class Piece:
    """Samples of one call of the host function.

    Attributes:
      rows: int [k], which samples.
      failures: how often they have failed by themselves.
    """

    rows: np.ndarray
    failures: int = 0

    def parts(self) -> list["Piece"]:
        """The piece cut into smaller ones."""
        return [
            Piece(rows, self.failures)
            for rows in np.array_split(self.rows, min(len(self.rows), _PARTS))
        ]

    def failed(self) -> "Piece":
        """The piece once it has failed again."""
        return Piece(self.rows, self.failures + 1)


def with_probes(todo: Sequence[Piece], count: int) -> list[Piece]:
    """With so many single samples from all over in front.

    A call of many samples fails with any of them, and those that fail may stand together: only
    single ones tell an outage from samples that have no answer.
    """
    fresh = [place for place, piece in enumerate(todo) if not piece.failures]
    # Of this order every beginning lies all over.
    fresh.sort(key=lambda place: (place * (5**0.5 - 1) / 2) % 1)
    probes, rest = [], list(todo)
    for place in fresh[:count]:
        rows = todo[place].rows
        middle = len(rows) // 2
        probes.append(Piece(rows[middle : middle + 1]))
        rest[place] = Piece(np.delete(rows, middle))
    return probes + [piece for piece in rest if len(piece.rows)]
