"""Moves that are drawn: a few of the coordinates, or directions over all of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.estimators.boundary.moves import Combined, Moves
from deepzero_jax.estimators.directions import (
    Distribution,
    draw_direction,
    rounding_seed,
    typical_lengths,
)
from deepzero_jax.keys import check_key
from deepzero_jax.types import Array, Key, PyTree

# What wants a key, in the words of ``check_key``.
DRAWING = "this function draws coordinates or directions in its backward pass"


@dataclass(frozen=True, eq=False)
class Drawn(Moves):
    """A number of coordinates, drawn without replacement for each unit, estimates scaled up.

    Attributes:
      count: of coordinates.
    """

    count: int = 1

    @property
    def num_calls(self) -> int:
        """See ``Moves``."""
        return self.count

    @property
    def is_whole(self) -> bool:
        """See ``Moves``."""
        return self.count == self.num_coordinates

    def draw(self, key: Key | None) -> jax.Array:
        """Coordinates: int32 [u, k]."""
        check_key(key, DRAWING)
        keys = jax.random.split(key, self.layout.num_units)  # pyright: ignore[reportArgumentType]
        one = lambda k: jax.random.permutation(k, self.num_coordinates)[: self.count]
        return jax.vmap(one)(keys).astype(jnp.int32)

    def directions(self, drawn: PyTree, calls: Array, xp: Any) -> Array:
        """See ``Moves``."""
        chosen = xp.asarray(drawn)[..., calls][..., None] == xp.arange(self.num_coordinates)
        return self._along_basis(chosen, xp)

    def combine(
        self,
        slopes: jax.Array,
        drawn: PyTree,
        steps: jax.Array,
        surrogate: jax.Array | None,
        lost: jax.Array | bool = False,
    ) -> Combined:
        """See ``Moves``."""
        del steps
        drawn = jnp.asarray(drawn)
        known = self._along(surrogate)
        if surrogate is not None:
            slopes = slopes - jnp.take_along_axis(jnp.asarray(known), drawn, axis=1)
        slopes = jnp.where(lost, 0, slopes)
        terms = slopes * self.num_coordinates
        zeros = jnp.zeros((len(slopes), self.num_coordinates), slopes.dtype)
        rows = jnp.arange(len(slopes))[:, None]
        found = zeros.at[rows, drawn].set(terms / self.count)
        lengths = 1.0 if self.basis is None else jnp.asarray(np.sum(self._dual**2, 1))[drawn]
        variance = _variance(lengths * terms**2, self._in_numbers(found), self.count)
        left = 1 - self.count / self.num_coordinates
        # Nothing is left to chance if all are drawn, be it the only one.
        return self._corrected(found, surrogate, left * variance if left else 0.0)


@dataclass(frozen=True, eq=False)
class Directions(Moves):
    """Random directions, each unit its own.

    Attributes:
      count: of directions.
      distribution: see ``rge``.
    """

    count: int = 1
    distribution: Distribution = "normal"

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Coordinates of each leaf; those of a basis are one."""
        return self.layout.sizes if self.basis is None else (self.num_coordinates,)

    @property
    def _own_sizes(self) -> np.ndarray:
        """The size of its leaf, for each coordinate: [d]."""
        return np.repeat(np.asarray(self._sizes, float), self._sizes)

    @cached_property
    def furthest(self) -> np.ndarray:
        """See ``Moves``; by the standard deviation of what is drawn."""
        lengths = map(float, typical_lengths(self.distribution, self._sizes))
        lengths = np.repeat(list(lengths), self._sizes)
        if self.basis is None:
            return lengths
        return self._furthest_of_rows(lengths[:, None] * self.basis)

    @property
    def num_calls(self) -> int:
        """See ``Moves``."""
        return self.count

    @property
    def divisor(self) -> Literal["moved", "step", "none"]:
        """See ``Moves``."""
        return "none"

    def draw(self, key: Key | None) -> tuple[jax.Array, jax.Array]:
        """Directions, float [u, k, d], and seeds [u, k]."""
        check_key(key, DRAWING)
        keys = jax.random.split(key, (self.layout.num_units, self.count))  # pyright: ignore[reportArgumentType]
        dtype = self.layout.wide
        zeros = [jnp.zeros(size, dtype) for size in self._sizes]
        one = lambda k: jnp.concatenate(draw_direction(k, zeros, None, self.distribution)[0])
        return jax.vmap(jax.vmap(one))(keys), jax.vmap(jax.vmap(rounding_seed))(keys)

    def seeds(self, drawn: PyTree, calls: Array, xp: Any) -> Array:
        """See ``Moves``."""
        return xp.asarray(drawn[1])[..., calls]

    def directions(self, drawn: PyTree, calls: Array, xp: Any) -> Array:
        """See ``Moves``."""
        return self._along_basis(xp.asarray(drawn[0])[..., calls, :], xp)

    def combine(
        self,
        slopes: jax.Array,
        drawn: PyTree,
        steps: jax.Array,
        surrogate: jax.Array | None,
        lost: jax.Array | bool = False,
    ) -> Combined:
        """See ``Moves``."""
        directions = jnp.asarray(drawn[0])
        if self.basis is not None:
            steps = steps[:1]
        if surrogate is not None:
            known = jnp.asarray(self._along(surrogate)) * steps
            slopes = slopes - jnp.einsum("ud,ukd->uk", known, directions)
        slopes = jnp.where(lost, 0, slopes)
        factor = self._factor(surrogate is not None)
        found = factor * jnp.einsum("uk,ukd->ud", slopes, directions) / (steps * self.count)
        terms = self._in_numbers(factor * slopes[..., None] * directions / steps)
        variance = _variance(jnp.sum(terms**2, -1), self._in_numbers(found), self.count)
        return self._corrected(found, surrogate, variance)

    def _factor(self, corrects: bool) -> int | jax.Array:
        """Of estimates: a direction on a sphere of d numbers has the mean square 1/d along each.

        On the spheres of leaves it is left out, as ``rge`` says, but not of what a surrogate has
        not.
        """
        if self.distribution == "tensor_sphere" and corrects:
            return jnp.asarray(self._own_sizes, self.layout.wide)
        return self.num_coordinates if self.distribution == "sphere" else 1


def _variance(squares: jax.Array, mean: jax.Array, count: int) -> jax.Array:
    """Of a mean over ``count`` terms [u, k] of squared length: summed over units."""
    if count < 2:
        return jnp.asarray(jnp.nan)
    spread = jnp.sum(squares) - count * jnp.sum(mean**2)
    return jnp.maximum(spread, 0) / (count * (count - 1))
