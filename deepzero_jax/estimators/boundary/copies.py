"""A backward pass on the host: where it starts, what moved, and its copies.

Of the copies that ``vmap`` makes some are asked for, and some share answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deepzero_jax.types import PyTree


class Copies(NamedTuple):
    """Copies of a backward pass, one axis in front of all arrays for each ``vmap``.

    Copies along an axis that cotangents alone have, as those of ``jax.jacrev``, share what is
    asked for. In here c axes that are asked for stand first, as one, and shared ones w behind.

    Attributes:
      front: sizes of the axes.
      is_shared: of each axis.
    """

    front: tuple[int, ...]
    is_shared: tuple[bool, ...]

    @classmethod
    def of(cls, asked: Sequence[tuple[int, ...]], weighing: Sequence[tuple[int, ...]]) -> "Copies":
        """By the front axes of what is asked for, and of cotangents; 1 where one has none."""
        own = np.broadcast_shapes(*asked)
        front = np.broadcast_shapes(own, *weighing)
        own = (1,) * (len(front) - len(own)) + own
        return cls(front, tuple(size > 1 == one for size, one in zip(front, own, strict=True)))

    @property
    def num_asked(self) -> int:
        """c, copies that are asked for."""
        return math.prod(self.front[axis] for axis in self._axes(shared=False))

    @property
    def num_shared(self) -> int:
        """w, copies of each that are not."""
        return math.prod(self.front[axis] for axis in self._axes(shared=True))

    def _axes(self, shared: bool) -> list[int]:
        return [axis for axis, is_one in enumerate(self.is_shared) if is_one == shared]

    @property
    def _order(self) -> list[int]:
        return self._axes(shared=False) + self._axes(shared=True)

    def asked(self, array: np.ndarray, ndim: int) -> np.ndarray:
        """What is asked for, [c, …]."""
        tail = array.shape[array.ndim - ndim :]
        own = [
            1 if shared else size for size, shared in zip(self.front, self.is_shared, strict=True)
        ]
        return np.broadcast_to(array, (*own, *tail)).reshape((self.num_asked, *tail))

    def weighing(self, array: np.ndarray, ndim: int) -> np.ndarray:
        """A cotangent, [c, w, …]."""
        tail = array.shape[array.ndim - ndim :]
        whole = np.broadcast_to(array, (*self.front, *tail))
        axes = [*self._order, *range(len(self.front), whole.ndim)]
        return whole.transpose(axes).reshape((self.num_asked, self.num_shared, *tail))

    def in_front(self, found: np.ndarray) -> np.ndarray:
        """Slopes [c, w, u, k] with the axes as they were."""
        num_axes = len(self.front)
        whole = found.reshape((*(self.front[axis] for axis in self._order), *found.shape[2:]))
        return whole.transpose((*map(self._order.index, range(num_axes)), num_axes, num_axes + 1))


@dataclass(frozen=True, eq=False)
class Base:
    """Where a backward pass starts, with its ``Copies`` in front.

    Attributes:
      leaves: inputs [c, …].
      steps: float64 [c, m].
      answers: float64 [c, u, p].
      cotangents: float64 [c, w, u, p].
      drawn: of the moves, arrays [c, u, …] or None.
    """

    leaves: Sequence[np.ndarray]
    steps: np.ndarray
    answers: np.ndarray
    cotangents: np.ndarray
    drawn: PyTree

    def lost(self, difference: np.ndarray) -> np.ndarray:
        """Where a moved sample that weighs had no answer, and the base has: [c, u, k, p]."""
        counts = np.isfinite(self.answers) & np.any(self.cotangents != 0, axis=1)
        return np.isnan(difference) & counts[:, :, None]

    def products(self, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Differences [c, u, k, p] times cotangents: [c, w, u, k].

        An answer that the base lacks is in no product where its cotangent is 0, as that of a
        loss that leaves it out, and makes it NaN elsewhere.

        Returns:
          The products, and which are lost, for any weight: [c, 1, u, k].
        """
        lost = np.any(self.lost(difference), axis=-1)[:, None]
        missing = np.isnan(difference)
        known = np.where(missing, 0.0, difference) if missing.any() else difference
        found = np.einsum("cukp,cwup->cwuk", known, self.cotangents)
        unknown = ~np.isfinite(self.answers)[:, None] & (self.cotangents != 0)
        return np.where(np.any(unknown, axis=-1)[..., None], np.nan, found), lost


class Moved(NamedTuple):
    """What some calls of a backward pass found.

    Attributes:
      asked: how far numbers were to move: [c, u, k, m].
      span: how far they did, in the type of the inputs: [c, u, k, m].
      difference: of the answers: [c, u, k, p].
      share: what brings differences back to what was asked for: [c, u, k].
    """

    asked: np.ndarray
    span: np.ndarray
    difference: np.ndarray
    share: np.ndarray
