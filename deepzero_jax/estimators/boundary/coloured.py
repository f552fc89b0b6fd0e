"""The gradient of a box whose numbers move in colours."""

from typing import Any

import numpy as np

from deepzero_jax.blackbox import BlackBoxError
from deepzero_jax.estimators.boundary.copies import Base, Moved
from deepzero_jax.estimators.boundary.moves import Colours

# A wrong pattern is off by about as much as there is; curvature and rounding by far less.
_WRONG = 0.1


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
            slopes = moved.difference[one] / moved.span[..., position, numbers]
            weighed = slopes[:, None] * self._at.cotangents[..., reached]
            products = np.where(lost[one][:, None], 0.0, weighed)
            place: Any = (..., numbers)
            np.add.at(self.gradient, place, products)
            np.logical_or.at(self.lost, place, lost[one])
            steps = self.signs[numbers] * self._at.steps[:, None, numbers]
            self._predicted[..., reached] += slopes * steps

    def compare(self, difference: np.ndarray) -> None:
        """Raises BlackBoxError unless the slopes predict a move of everything, by ``signs``."""
        whole = np.linalg.norm(np.nan_to_num(difference))
        gap = np.linalg.norm(np.nan_to_num(difference - self._predicted))
        if gap > _WRONG * whole:
            raise BlackBoxError(
                "the structure given to dz.differentiable does not hold: its pattern misses "
                f"{gap / whole:.0%} of what a random move of all inputs does; give a pattern "
                "with every input that an output depends on"
            )
