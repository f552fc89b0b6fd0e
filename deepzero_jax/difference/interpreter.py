"""Passes of deltas through a program, beside its base values."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace

import jax
import jax.numpy as jnp

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.edges import zero_at_infinities
from deepzero_jax.difference.precision import wide
from deepzero_jax.difference.program import (
    Constant,
    Operand,
    Program,
    Values,
    inside,
    last_uses,
    read,
)
from deepzero_jax.difference.rules import propagate_equation
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import (
    ZERO,
    Channel,
    Delta,
    Moved,
    Point,
    Zero,
    dense,
)
from deepzero_jax.varying import vary, varying


def propagate(
    program: Program,
    values: Values,
    deltas: Sequence[Delta],
    delta_dtype: jax.typing.DTypeLike | None = None,
    stand_ins: Values | None = None,
) -> list[Delta]:
    """Deltas of a program's outputs, given base values and the deltas of its inputs.

    Equations whose inputs do not move are not visited: feature reuse falls out.

    Args:
      program: flat equations.
      values: every base value, from ``evaluate``.
      deltas: of the inputs.
      delta_dtype: type of the operands of products of deltas, or None.
      stand_ins: for base values of inputs that are not finite, see ``application``.

    Returns:
      Deltas; those of float16 and bfloat16 values are float32.
    """
    passing = Passing(program, values, delta_dtype)
    passing = passing.through(dict(zip(program.inputs, deltas, strict=True)), stand_ins)
    return [passing.result(item) for item in program.outputs]


def propagate_beside(
    program: Program,
    values: Values,
    deltas: Sequence[Delta],
    stand_ins: Values,
    delta_dtype: jax.typing.DTypeLike | None,
    unbounded: bool = False,
) -> tuple[list[Delta], Values]:
    """``propagate`` with deltas that count from stand-ins.

    Args:
      program: flat equations.
      values: every base value.
      deltas: of the inputs, from their stand-ins.
      stand_ins: of the inputs that have some.
      delta_dtype: type of the operands of products of deltas, or None.
      unbounded: whether any value may be infinite, as one outside is.

    Returns:
      Deltas of the outputs, and every stand-in.
    """
    passing = Passing(program, values, delta_dtype, unbounded)
    passing = passing.through(dict(zip(program.inputs, deltas, strict=True)), stand_ins)
    return [passing.delta_of(item) for item in program.outputs], passing.stand_ins


class Passing:
    """A pass of deltas under way, equation by equation.

    Args:
      program: flat equations.
      values: every base value.
      delta_dtype: type of the operands of products of deltas, or None.
      unbounded: whether any value may be infinite, as one outside is.

    Attributes:
      moving: deltas that are still to be read, by variable number.
      stand_ins: by variable number.
    """

    def __init__(
        self,
        program: Program,
        values: Values,
        delta_dtype: jax.typing.DTypeLike | None,
        unbounded: bool = False,
    ) -> None:
        self._program, self._values, self._delta_dtype = program, values, delta_dtype
        self._signs, self._last_use = Signs(program, unbounded), last_uses(program)
        self.moving: dict[int, Delta] = {}
        self.stand_ins: Values = {}

    def anew(self, deltas: Mapping[int, Delta], stand_ins: Values | None = None) -> "Passing":
        """Another pass of the same program, before its first equation.

        Args:
          deltas: by variable number.
          stand_ins: of the variables that have some.
        """
        other = copy(self)
        other.moving = {
            number: _entering(delta, self._values[number])
            for number, delta in deltas.items()
            if not isinstance(delta, Zero) and number in self._last_use
        }
        other.stand_ins = dict(stand_ins or {})
        return other

    def through(
        self,
        deltas: Mapping[int, Delta],
        stand_ins: Values | None = None,
        places: Iterable[int] | None = None,
    ) -> "Passing":
        """Another pass, as ``anew``, behind the equations at some places, None for all."""
        other = self.anew(deltas, stand_ins)
        for place in range(len(self._program.equations)) if places is None else places:
            other.advance(place)
        return other

    def delta_of(self, item: Operand) -> Delta:
        """The delta of an operand that is still to be read."""
        return ZERO if isinstance(item, Constant) else self.moving.get(item, ZERO)

    def advance(self, place: int) -> None:
        """Propagates through the equation at a place."""
        eqn = self._program.equations[place]
        inputs = [self.delta_of(item) for item in eqn.inputs]
        if all(isinstance(delta, Zero) for delta in inputs):
            return
        operands = [read(self._values, item) for item in eqn.inputs]
        results = [self._values[number] for number in eqn.outputs]
        bases = [self._stand_in_of(item) for item in eqn.inputs]
        within = self._values.get(inside(eqn))
        unbounded = any(map(self._signs.unbounded, eqn.outputs))
        at = Application(
            eqn,
            bases,
            results,
            self._delta_dtype,
            operands,
            results,
            inside=within,
            unbounded=unbounded,
        )
        moved, others = propagate_equation(at, inputs, self._signs)
        for number, delta, other in zip(eqn.outputs, moved, others, strict=True):
            if not isinstance(delta, Zero) and number in self._last_use:
                self.moving[number] = zero_at_infinities(delta, other) if unbounded else delta
                if other is not self._values[number]:
                    self.stand_ins[number] = other
                    self.moving[number] = _staying(self.moving[number], self._values[number])
        for item in eqn.inputs:
            if isinstance(item, int) and self._last_use[item] == place:
                self.moving.pop(item, None)
                self.stand_ins.pop(item, None)

    def result(self, item: Operand) -> Delta:
        """The delta of an output from its base value, whatever may stand in for that."""
        delta = self.delta_of(item)
        if isinstance(item, Constant) or item not in self.stand_ins:
            return delta
        return _from_base(read(self._values, item), self.stand_ins[item], delta)

    def _stand_in_of(self, item: Operand) -> jax.Array:
        if not isinstance(item, Constant) and item in self.stand_ins:
            return self.stand_ins[item]
        return read(self._values, item)


def _entering(delta: Delta, base: jax.Array) -> Delta:
    """A delta in the type in which it is propagated, varying over a mesh as its base does."""
    enter = lambda array: vary(wide(array), varying(base))
    if isinstance(delta, Point):
        return delta._replace(value=enter(delta.value))
    if isinstance(delta, Channel):
        return replace(delta, array=enter(delta.array))
    return delta if isinstance(delta, Zero | Moved) else enter(delta)


def _staying(delta: Delta, value: jax.Array) -> Delta:
    """A delta of a value for which something stands in."""
    return replace(delta, stays=value) if isinstance(delta, Channel) else delta


def _from_base(value: jax.Array, stand_in: jax.Array, delta: Delta) -> Delta:
    """A delta that counts from a stand-in as one from the value itself."""
    if isinstance(delta, Moved | Zero):
        return delta
    moves = dense(delta, stand_in)
    new = wide(stand_in) + moves
    return jnp.where(jnp.isfinite(value), moves, new - wide(value))
