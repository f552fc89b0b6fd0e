"""Numbers that share no output move together, in colours; the gradient of a box from such moves."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deepzero_jax.blackbox import BlackBoxError
from deepzero_jax.estimators.boundary.copies import Base, Moved
from deepzero_jax.estimators.boundary.moves import Moves
from deepzero_jax.estimators.boundary.structure import colours, owners
from deepzero_jax.types import Array, PyTree

# A wrong pattern is off by about as much as there is; curvature and rounding by far less.
_WRONG = 0.1
# What is seen of curvature and noise may be a fraction of what there is.
_DOUBT = 20.0


@dataclass(frozen=True, eq=False)
class Colours(Moves):
    """Coordinates that share no output move together.

    Attributes:
      pattern: sparse boolean [outputs, m].
    """

    pattern: Any = None

    @cached_property
    def _colours(self) -> np.ndarray:
        return colours(self.pattern)

    @cached_property
    def owners(self) -> np.ndarray:
        """Which number of a call reaches an output: int [k, outputs], −1 for none."""
        return owners(self.pattern, self._colours, self.pattern.shape[0])

    @property
    def num_calls(self) -> int:
        """See ``Moves``."""
        return int(self._colours.max(initial=-1)) + 1

    def _coefficients(self, drawn: PyTree, calls: Array, xp: Any) -> Array:
        del drawn
        return calls[:, None] == xp.asarray(self._colours)


class Coloured:
    """The gradient of coloured moves, added up call by call, and a check of their pattern.

    Args:
      moves: the colours.
      at: the base.
    """

    def __init__(self, moves: Colours, at: Base) -> None:
        self._owners, self._at = moves.owners, at
        numbers = at.steps.shape[-1]
        self.gradient = np.zeros((*at.cotangents.shape[:3], numbers))
        self.signs = np.where(np.random.default_rng(0).random(numbers) < 0.5, -1.0, 1.0)
        self.lost = np.zeros((*at.answers.shape[:2], numbers), bool)
        self._predicted = np.zeros_like(at.answers)

    def add(self, moved: Moved, calls: np.ndarray) -> None:
        """Takes in what calls [k] found."""
        lost = self._at.lost(moved.difference)
        for position, owner in enumerate(self._owners[calls]):
            reached = np.flatnonzero(owner >= 0)
            numbers = owner[reached]
            one: Any = (..., position, reached)
            slopes = moved.difference[one] * inverse(moved.span[..., position, numbers])
            weights = self._at.cotangents[..., reached]
            nothing = lost[one][:, None] | (weights == 0)
            products = np.where(nothing, 0.0, slopes[:, None] * weights)
            place: Any = (..., numbers)
            np.add.at(self.gradient, place, products)
            np.logical_or.at(self.lost, place, lost[one])
            steps = self.signs[numbers] * self._at.steps[:, None, numbers]
            self._predicted[..., reached] += slopes * steps

    def compare(self, difference: np.ndarray, rounding: float) -> None:
        """Raises BlackBoxError unless the slopes predict moves of everything.

        Outputs are looked at one by one, as they may be of very different sizes. What differs by
        no more than curvature and noise do, which the mean of moves there and back shows, counts
        as predicted.

        Args:
          difference: after moves by ``signs``, and by their opposite: [c, u, 2, p].
          rounding: of the answers, as a part of them.
        """
        ahead, behind = difference[:, :, 0], difference[:, :, 1]
        odd, even = (ahead - behind) / 2, (ahead + behind) / 2
        counts = np.isfinite(odd) & np.isfinite(self._predicted)
        length = lambda values: np.sqrt(np.sum(np.where(counts, values, 0) ** 2, axis=(0, 1)))
        whole, gap, bent = length(odd), length(odd - self._predicted), length(even)
        noise = np.quantile(bent, 0.5, method="lower") + rounding * length(self._at.answers)
        wrong = (gap > _WRONG * whole) & (gap > _DOUBT * (bent + noise))
        everything, missing = np.linalg.norm(whole), np.linalg.norm(gap)
        doubt = _DOUBT * np.linalg.norm(bent + noise)
        if wrong.any() or (missing > _WRONG * everything and missing > doubt):
            shares = gap[wrong] / np.where(whole > 0, whole, gap)[wrong]
            missed = np.max(shares, initial=missing / (everything or missing))
            raise BlackBoxError(
                "the structure given to dz.differentiable does not hold: its pattern misses "
                f"{missed:.0%} of what a random move of all inputs does to an output; give a "
                "pattern with every input that an output depends on"
            )


def inverse(spans: np.ndarray) -> np.ndarray:
    """One by how far numbers went; 0 where they stayed, being infinite."""
    return np.divide(1.0, spans, out=np.zeros_like(spans), where=spans != 0)
