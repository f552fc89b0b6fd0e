"""What one random direction adds to an estimate: by differences, from the base, or by places."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.estimators.base_pass import BasePass
from deepzero_jax.estimators.directions import Drawn
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.estimators.terms import Term

# ``(number of a direction within its part) -> what it adds``.
Summand = Callable[[jax.Array], Term]


@dataclass(frozen=True)
class Directions:
    """The directions of a part of an estimate.

    Attributes:
      base: from which is moved.
      leaves: of the parameters.
      draw: a direction by its number within the part.
      steps: along it, of each leaf.
      central: two-sided differences.
    """

    base: BasePass
    leaves: Sequence[jax.Array]
    draw: Callable[[jax.Array], Drawn]
    steps: Sequence[Step]
    central: bool

    def summand(self) -> Summand:
        """By the difference of the loss along each."""

        def term(index: jax.Array) -> Term:
            drawn = self.draw(index)
            return self._term(*self._difference(drawn), drawn)

        return term

    def summand_of(self, differences: jax.Array, lost: jax.Array) -> Summand:
        """By differences [n] that are known, some of them dropped."""
        return lambda index: self._term(differences[index], lost[index], self.draw(index))

    def summand_from_base(self) -> Summand | None:
        """As ``summand``, the loss at the base from the program of the moved ones.

        Where two evaluations are subtracted, from one side, and no box is asked once more.
        """
        shared = self.base.shared
        if shared is None or self.central or self.base.host_use.asks:
            return None

        def term(index: jax.Array) -> Term:
            drawn = self.draw(index)
            # What does not count stays at the base.
            delta, share = shared(drawn.along(self.steps, drawn.counts), drawn.seed)
            still = jnp.where(drawn.counts, 0, delta).astype(wide_dtype(self.base.value.dtype))
            parts, shares = (self._parts(of, drawn) for of in (delta, share))
            return Term(parts, jnp.int32(0), shares, still, (~drawn.counts).astype(jnp.int32))

        return term

    def like(self, with_shares: bool) -> Term:
        """A term of the right shapes."""
        if not with_shares:
            return Term(self.leaves, jnp.int32(0))
        return Term(self.leaves, jnp.int32(0), self.leaves, self.base.value, jnp.int32(0))

    def _difference(self, drawn: Drawn) -> tuple[jax.Array, jax.Array]:
        """Of the loss along a direction, and whether it is dropped."""
        base = self.base
        delta = base.delta(drawn.along(self.steps), drawn.seed)
        if self.central:
            delta -= base.delta(drawn.along(self.steps, -1), drawn.seed)
        return base.host_use.kept(delta, base.value), base.host_use.lost(delta, base.value)

    def _term(self, delta: jax.Array, lost: jax.Array, drawn: Drawn) -> Term:
        return Term(self._parts(delta, drawn), (lost & drawn.counts).astype(jnp.int32))

    def _parts(self, delta: jax.Array, drawn: Drawn) -> list[jax.Array]:
        """What a difference along a direction adds to the gradient, by leaf."""
        slopes = self._slopes(delta, drawn.counts)
        return [
            (drawn.factor * s * u).astype(wide_dtype(u.dtype))
            for s, u in zip(slopes, drawn.leaves, strict=True)
        ]

    def _slopes(self, delta: jax.Array, counts: jax.Array) -> list[jax.Array]:
        """Slope along a direction, in units of the step of each leaf; zero unless it counts."""
        width = 2 if self.central else 1
        slope = lambda step: jnp.where(counts, delta / (width * step), 0.0)
        # Leaves of the same step share one division.
        known = {step: slope(step) for step in self.steps if isinstance(step, float)}
        return [known[step] if isinstance(step, float) else slope(step) for step in self.steps]
