"""Slopes of a traceable function: its differences propagated by the engine, or subtracted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from deepzero_jax.blackbox import asks_host
from deepzero_jax.difference import ZERO, Delta, dense, evaluate, propagate, read, trace
from deepzero_jax.difference.base_values import base_values
from deepzero_jax.difference.precision import wide, wide_dtype
from deepzero_jax.difference.program import Program, Values, without_dead_equations
from deepzero_jax.estimators.boundary.coloured import Colours
from deepzero_jax.estimators.boundary.layout import Layout, Start
from deepzero_jax.estimators.boundary.moves import Moves
from deepzero_jax.estimators.chunks import BatchSize, alone, chunk_size
from deepzero_jax.estimators.rounding import in_the_mean, nearest
from deepzero_jax.types import Array, PyTree


class Traced(NamedTuple):
    """A function as the engine sees it.

    Attributes:
      program: its equations.
      treedef: of its outputs.
    """

    program: Program
    treedef: PyTree

    @classmethod
    def of(cls, fun: Callable[..., PyTree], leaves: Sequence[jax.Array]) -> "Traced":
        """Traces a function of flat leaves."""
        program, treedef = trace(fun, *leaves)
        return cls(without_dead_equations(program, program.outputs), treedef)

    def values(self, leaves: Sequence[jax.Array]) -> Values:
        """Every value at the base."""
        return base_values(self.program, leaves)

    def outputs(self, values: Values) -> PyTree:
        """The outputs as a tree."""
        found = [jnp.asarray(read(values, item)) for item in self.program.outputs]
        return self.treedef.unflatten(found)


class Propagated(NamedTuple):
    """How a backward pass finds the slopes of a traceable function.

    Attributes:
      traced: the function.
      moves: which numbers, and which of them together.
      central: whether both sides are evaluated.
      floating: which outputs are floating-point: those have cotangents.
      subtracts: whether whole evaluations are subtracted in place of propagated differences.
      delta_dtype: of operands of products of deltas.
      batch_size: calls side by side.
    """

    traced: Traced
    moves: Moves
    central: bool
    floating: tuple[int, ...]
    subtracts: bool
    delta_dtype: DTypeLike | None
    batch_size: BatchSize

    @property
    def layout(self) -> Layout:
        """Of the numbers that move."""
        return self.moves.layout

    def slopes(self, start: Start) -> jax.Array:
        """[u, k], or [u, m] of coloured moves."""
        leaves, steps, values, cotangents, drawn = start
        step = jnp.asarray(self.layout.per_number(steps)).astype(self.layout.wide)
        weights = self._flat(cotangents)

        def one(call: jax.Array) -> jax.Array:
            moved = self.moves.directions(drawn, call[None], jnp)[..., 0, :] * step
            moved = jnp.broadcast_to(moved, (self.layout.num_units, self.layout.size))
            moved = moved.astype(self.layout.wide)
            seeds = self.moves.seeds(drawn, call, jnp)
            difference = self._difference(leaves, values, moved, seeds)
            if self.central:
                difference -= self._difference(leaves, values, -moved, seeds)
            return self._contract(difference * weights, call)

        calls = jnp.arange(self.moves.num_calls, dtype=jnp.int32)
        # Side by side, a chunk that is not full would ask a host beyond the calls.
        chunk = 1 if asks_host(self.traced.program.equations) else self._chunk(one)
        batch_size = chunk if chunk > 1 else None
        found = alone(lambda calls: lax.map(one, calls, batch_size=batch_size), calls)
        sides = 2 if self.central else 1
        if isinstance(self.moves, Colours):
            return jnp.sum(found, axis=0) / (sides * step)
        if self.moves.divisor == "moved":
            step = step if drawn is None else step[jnp.asarray(drawn)]
        else:
            step = step[0] if self.moves.divisor == "step" else 1
        return found.T / (sides * step)

    def _chunk(self, one: Callable[[jax.Array], jax.Array]) -> int:
        return min(chunk_size(self.batch_size, one, jnp.int32(0)), self.moves.num_calls)

    def _difference(
        self,
        leaves: Sequence[jax.Array],
        values: Values,
        moved: jax.Array,
        seeds: Array | None,
    ) -> jax.Array:
        """Outputs at moved inputs less those at the base: [u, p]."""
        parts = self.layout.split(moved)
        program = self.traced.program
        bases = [jnp.asarray(read(values, item)) for item in program.outputs]
        if self.subtracts:
            by_unit = lambda array: array.reshape((self.layout.num_units, -1))
            starts = [by_unit(leaves[i]) for i in self.layout.moving]
            steps, others = list(map(by_unit, parts)), list(leaves)
            gone, share = in_the_mean(nearest(starts, steps), seeds, 1)
            for position, end in zip(self.layout.moving, gone.ahead, strict=True):
                others[position] = jnp.reshape(end, leaves[position].shape)
            found = evaluate(program, others)
            new = [jnp.asarray(read(found, item)) for item in program.outputs]
            difference = self._flat([wide(new[i]) - wide(bases[i]) for i in self.floating])
            return difference * share[:, None]
        deltas: list[Delta] = [ZERO] * len(leaves)
        for position, part in zip(self.layout.moving, parts, strict=True):
            deltas[position] = jnp.asarray(part).astype(wide_dtype(leaves[position].dtype))
        found = propagate(program, values, deltas, self.delta_dtype)
        return self._flat([dense(found[i], bases[i]) for i in self.floating])

    def _flat(self, outputs: Sequence[jax.Array]) -> jax.Array:
        units = self.layout.num_units
        return jnp.concatenate([output.reshape((units, -1)) for output in outputs], axis=-1)

    def _contract(self, products: jax.Array, call: jax.Array) -> jax.Array:
        """Of one call, from [u, p]: [u], or [u, m] of a colour."""
        if not isinstance(self.moves, Colours):
            return jnp.sum(products, axis=-1)
        owner = jnp.asarray(self.moves.owners)[call]
        zeros = jnp.zeros((products.shape[0], self.layout.size), products.dtype)
        # An owner of −1, nobody, is dropped.
        owner = jnp.where(owner < 0, self.layout.size, owner)
        return zeros.at[:, owner].add(products, mode="drop")
