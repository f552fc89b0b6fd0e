"""The finite-difference transform: one pass of deltas beside a pass of base values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.precision import wide, wide_dtype
from deepzero_jax.difference.program import (
    Constant,
    Operand,
    Program,
    Values,
    apply,
    last_uses,
    read,
    trace,
    without_dead_equations,
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
    is_float,
)
from deepzero_jax.types import PyTree


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


def evaluate_and_propagate(
    program: Program,
    inputs: Sequence[jax.Array],
    deltas: Sequence[Delta],
    stand_ins: Values | None = None,
) -> tuple[list[jax.Array], list[Delta]]:
    """Both passes at once; of each value nothing is kept after its last use.

    Args:
      program: flat equations.
      inputs: base values of its inputs.
      deltas: of the inputs.
      stand_ins: as in ``propagate``.

    Returns:
      Base values and deltas of the outputs.
    """
    values, last_use = dict(zip(program.inputs, inputs, strict=True)), last_uses(program)
    passing = Passing(program, values, None)
    passing = passing.anew(dict(zip(program.inputs, deltas, strict=True)), stand_ins)
    del inputs, deltas
    for place, eqn in enumerate(program.equations):
        results = apply(eqn, [read(values, item) for item in eqn.inputs])
        values.update(zip(eqn.outputs, results, strict=True))
        passing.advance(place)
        for item in (*eqn.inputs, *eqn.outputs):
            if isinstance(item, int) and last_use.get(item, place) <= place:
                values.pop(item, None)
    outputs = [jnp.asarray(read(values, item)) for item in program.outputs]
    return outputs, [passing.result(item) for item in program.outputs]


def propagate_beside(
    program: Program,
    values: Values,
    deltas: Sequence[Delta],
    stand_ins: Values,
    delta_dtype: jax.typing.DTypeLike | None,
) -> tuple[list[Delta], Values]:
    """``propagate`` with deltas that count from stand-ins.

    Args:
      program: flat equations.
      values: every base value.
      deltas: of the inputs, from their stand-ins.
      stand_ins: of the inputs that have some.
      delta_dtype: type of the operands of products of deltas, or None.

    Returns:
      Deltas of the outputs, and every stand-in.
    """
    passing = Passing(program, values, delta_dtype)
    passing = passing.through(dict(zip(program.inputs, deltas, strict=True)), stand_ins)
    return [passing.delta_of(item) for item in program.outputs], passing.stand_ins


class Passing:
    """A pass of deltas under way, equation by equation.

    Args:
      program: flat equations.
      values: every base value.
      delta_dtype: type of the operands of products of deltas, or None.

    Attributes:
      moving: deltas that are still to be read, by variable number.
      stand_ins: by variable number.
    """

    def __init__(
        self,
        program: Program,
        values: Values,
        delta_dtype: jax.typing.DTypeLike | None,
    ) -> None:
        self._program, self._values, self._delta_dtype = program, values, delta_dtype
        self._signs, self._last_use = Signs(program), last_uses(program)
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
            number: _wide(delta)
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
        at = Application(eqn, bases, results, self._delta_dtype, operands, results)
        moved, others = propagate_equation(at, inputs, self._signs)
        for number, delta, other in zip(eqn.outputs, moved, others, strict=True):
            if not isinstance(delta, Zero) and number in self._last_use:
                self.moving[number] = delta
                if other is not self._values[number]:
                    self.stand_ins[number] = other
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


def _wide(delta: Delta) -> Delta:
    """A delta in the type in which it is propagated."""
    if isinstance(delta, Point):
        return delta._replace(value=wide(delta.value))
    if isinstance(delta, Channel):
        return replace(delta, array=wide(delta.array))
    return delta if isinstance(delta, Zero | Moved) else wide(delta)


def _from_base(value: jax.Array, stand_in: jax.Array, delta: Delta) -> Delta:
    """A delta that counts from a stand-in as one from the value itself."""
    if isinstance(delta, Moved | Zero):
        return delta
    moves = dense(delta, stand_in)
    new = wide(stand_in) + moves
    return jnp.where(jnp.isfinite(value), moves, new - wide(value))


def difference(
    fun: Callable[..., PyTree], primals: Sequence[PyTree], deltas: Sequence[PyTree]
) -> tuple[PyTree, PyTree]:
    r"""Evaluates a function and its exact finite difference: $f(x)$ and $f(x + Δ) - f(x)$.

    The difference is propagated through the operations of ``fun`` in forms that do not
    cancel, so it keeps its relative accuracy however small Δ is; subtracting two
    evaluations loses the digits that they share. As Δ → 0 it becomes ``jax.jvp``.

    Args:
      fun: any traceable function of pytrees of arrays.
      primals: the arguments x, a sequence of pytrees.
      deltas: Δ, a sequence of pytrees like ``primals``. The delta of an integer or
        boolean is of dtype ``float0``, as in ``jax.jvp``, and means zero.

    Returns:
      ``(fun(*primals), delta)``, two pytrees of the same structure and types. For an
      integer or boolean output the delta is the new value minus the old one, as an int32;
      for a float16 output it is float32, as float16 holds nothing below 6e-8.

    Raises:
      TypeError: ``deltas`` are not like ``primals``.

    **Cost**: one base pass, and one pass of deltas through what depends on inputs that
    move. A primitive without a rule is evaluated at the perturbed point and subtracted.
    Infinite primals are noticed where values are concrete; under ``jit`` primals count as
    finite. Infinities that the function itself makes and loses again are no obstacle.
    Departure from a plain subtraction: x + Δ is never rounded to the grid of x, and
    neither is what follows from it. float16 and bfloat16 steps are propagated in float32,
    operands of bfloat16 products apart.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> out, delta = dz.difference(jnp.exp, (1.0,), (1e-7,))
      >>> print(out, delta)
      2.7182817 2.7182818e-07
      >>> subtracted = jnp.exp(1.0 + 1e-7) - jnp.exp(1.0)
      >>> bool(abs(subtracted - delta) > 0.1 * delta)
      True
    """
    flat, treedef = jax.tree.flatten(tuple(primals))
    flat_deltas, delta_tree = jax.tree.flatten(tuple(deltas))
    if treedef != delta_tree:
        raise TypeError(f"deltas must have the structure of primals, {treedef}; got {delta_tree}")
    flat = [jnp.asarray(value) for value in flat]
    checked = [_check_delta(v, d) for v, d in zip(flat, flat_deltas, strict=True)]
    program, out_tree = trace(lambda *args: fun(*args), *treedef.unflatten(flat))
    program = without_dead_equations(program, program.outputs)
    stand_ins, checked = _infinite_primals(program, flat, checked)
    outputs, moved = evaluate_and_propagate(program, flat, checked, stand_ins)
    results = [_as_array(delta, out) for delta, out in zip(moved, outputs, strict=True)]
    return out_tree.unflatten(outputs), out_tree.unflatten(results)


def _infinite_primals(
    program: Program, primals: Sequence[jax.Array], deltas: Sequence[Delta]
) -> tuple[Values, list[Delta]]:
    """Zeros that stand in for primals that are known not to be finite, and deltas from there."""
    stand_ins: Values = {}
    found = list(deltas)
    for place, (value, delta) in enumerate(zip(primals, deltas, strict=True)):
        if isinstance(delta, Zero) or isinstance(value, Tracer):
            continue
        finite = jnp.isfinite(value)
        if not bool(jnp.all(finite)):
            stand_ins[program.inputs[place]] = jnp.where(finite, value, 0)
            moves = dense(delta, value)
            found[place] = jnp.where(finite, moves, wide(value) + moves)
    return stand_ins, found


def _check_delta(value: jax.Array, delta: jax.typing.ArrayLike) -> Delta:
    if getattr(delta, "dtype", None) == jax.dtypes.float0:
        return ZERO
    if not is_float(value):
        raise TypeError(
            f"a primal of dtype {value.dtype} has no difference; give it a delta of dtype float0"
        )
    if np.shape(delta) != value.shape:
        raise TypeError(
            f"a delta must have the shape of its primal, {value.shape}; got {np.shape(delta)}"
        )
    # In float32 for float16 and bfloat16: a small step must not become zero.
    return jnp.asarray(delta, wide_dtype(value.dtype))


def _as_array(delta: Delta, out: jax.Array) -> jax.Array:
    if isinstance(delta, Moved):
        return delta.value.astype(jnp.int32) - out.astype(jnp.int32)
    if isinstance(delta, Zero) and not is_float(out):
        return jnp.zeros(out.shape, jnp.int32)
    return dense(delta, out).astype(jnp.float32 if out.dtype == jnp.float16 else out.dtype)
