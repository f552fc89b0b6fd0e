"""Which numbers move together in each call of a backward pass, and what its slopes make.

Shapes: u units, k calls, m numbers of a unit, d coordinates (m, or the rows of a basis), and
any axes in front, which ``vmap`` adds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.estimators.boundary.fixed import identity
from deepzero_jax.estimators.boundary.layout import Layout
from deepzero_jax.estimators.rounding import is_swallowed
from deepzero_jax.types import Array, Key, PyTree


class Combined(NamedTuple):
    """A gradient of units.

    Attributes:
      gradient: [u, m].
      variance: of its error, estimated from its terms and summed over all numbers; 0 where
        nothing was drawn.
    """

    gradient: jax.Array
    variance: jax.Array


@dataclass(frozen=True, eq=False)
class Moves:
    """All coordinates, one after the other; the base of the other kinds.

    Attributes:
      layout: of the numbers.
      basis: rows [d, m] along which coordinates run, None for the numbers themselves.
    """

    layout: Layout
    basis: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        """Whether they move the same."""
        return isinstance(other, Moves) and identity(self) == identity(other)

    def __hash__(self) -> int:
        """As they compare."""
        return hash(identity(self))

    @property
    def num_coordinates(self) -> int:
        """d, the number of coordinates."""
        return self.layout.size if self.basis is None else len(self.basis)

    @property
    def num_calls(self) -> int:
        """k, the calls of a backward pass."""
        return self.num_coordinates

    @property
    def divisor(self) -> Literal["moved", "step", "none"]:
        """What turns a product of differences into a slope.

        Where one number moves, the way that it really went; along the rows of a basis, the step;
        of random directions nothing, as the step may differ between leaves.
        """
        return "moved" if self.basis is None else "step"

    @cached_property
    def furthest(self) -> np.ndarray | None:
        """How far the calls move each number, in units of the step, whatever is drawn: [m].

        0 for what is less than a tenth of the others that go with it. None where a call moves
        one number.
        """
        return None if self.basis is None else self._furthest_of_rows(self.basis)

    @property
    def is_whole(self) -> bool:
        """Whether something moves, and every coordinate with it."""
        return self.num_calls > 0

    def swallowed(self, leaves: Sequence[jax.Array], steps: jax.Array) -> jax.Array | bool:
        """Which numbers [u, m] rounding leaves as they are, however far the calls move them.

        Args:
          leaves: that move.
          steps: [m].
        """
        if self.furthest is None:  # where one number moves, its slope is 0 / 0 then
            return False
        parts = self.layout.split(jnp.asarray(self.furthest * steps)[None])
        found = [
            (part != 0) & is_swallowed(leaf, part.astype(leaf.dtype)) & ~jnp.isinf(leaf)
            for leaf, part in zip(leaves, parts, strict=True)
        ]
        return jnp.asarray(self.layout.join(found))

    def _furthest_of_rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        counts = np.abs(rows) >= 0.1 * np.abs(rows).max(axis=1, initial=0, keepdims=True)
        return np.max(np.abs(rows) * counts, axis=0, initial=0)

    def draw(self, key: Key | None) -> PyTree:
        """What is random, arrays [u, …] or None."""
        del key

    def seeds(self, drawn: PyTree, calls: Array, xp: Any) -> Array | None:
        """What rounds the steps of calls [k'] along random directions: uint32 [..., u, k']."""
        del drawn, calls, xp

    def directions(self, drawn: PyTree, calls: Array, xp: Any) -> Array:
        """Where calls [k'] move each unit, in units of the step: [..., u or 1, k', m]."""
        return self._along_basis(self._coefficients(drawn, calls, xp)[None], xp)

    def _coefficients(self, drawn: PyTree, calls: Array, xp: Any) -> Array:
        del drawn
        return calls[:, None] == xp.arange(self.num_coordinates)

    def _along_basis(self, coefficients: Array, xp: Any) -> Array:
        coefficients = coefficients.astype(float)
        return coefficients if self.basis is None else coefficients @ xp.asarray(self.basis)

    def combine(
        self,
        slopes: jax.Array,
        drawn: PyTree,
        steps: jax.Array,
        surrogate: jax.Array | None,
        lost: jax.Array | bool = False,
    ) -> Combined:
        """The gradient [u, m] from slopes [u, k].

        Args:
          slopes: along the directions, divided as ``divisor`` says; [u, m] of colours.
          drawn: what ``draw`` gave.
          steps: [m].
          surrogate: a gradient [u, m] that the slopes correct, or None.
          lost: [u, k], the slopes that a box gave no answer for: they correct nothing, and
            without a surrogate are 0.
        """
        del drawn, steps
        if self.basis is None:
            kept = slopes if surrogate is None else jnp.where(lost, surrogate, slopes)
            return Combined(kept, jnp.zeros(()))
        corrections = jnp.where(lost, 0, slopes - self._along(surrogate))
        return self._corrected(corrections, surrogate)

    def _along(self, surrogate: jax.Array | None) -> jax.Array | float:
        """The surrogate's slopes along the coordinates: [u, d]."""
        if surrogate is None:
            return 0.0
        return surrogate if self.basis is None else surrogate @ jnp.asarray(self.basis).T

    def _corrected(
        self, slopes: jax.Array, surrogate: jax.Array | None, variance: jax.Array | float = 0.0
    ) -> Combined:
        """The gradient from slopes [u, d] of what the surrogate has not."""
        correction = self._in_numbers(slopes)
        return Combined(
            correction if surrogate is None else surrogate + correction.astype(surrogate.dtype),
            jnp.asarray(variance),
        )

    def _in_numbers(self, slopes: jax.Array) -> jax.Array:
        """Slopes along coordinates [..., d] as a gradient of the numbers [..., m]."""
        return slopes if self.basis is None else slopes @ jnp.asarray(self._dual)

    @cached_property
    def _dual(self) -> np.ndarray:
        """[d, m]: slopes along the rows of a basis times this are the projected gradient."""
        return np.linalg.pinv(np.asarray(self.basis)).T
