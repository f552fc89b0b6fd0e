"""Loops and branches: the difference runs inside them, beside the base."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax import lax

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.base_values import (
    base_values,
    fits,
    scan_layout,
    scan_options,
    turns_of,
)
from deepzero_jax.difference.edges import subtracted
from deepzero_jax.difference.interpreter import propagate_beside
from deepzero_jax.difference.program import Constant, Program, Values, flatten_jaxpr, read
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import ZERO, Delta, Moved, dense, dense_or_none, is_float

# One for each of some values, None for zero or for no stand-in.
Arrays = list[jax.Array | None]
Pair = tuple[Arrays, Arrays]


class Beside(NamedTuple):
    """Values, and what goes beside each.

    Attributes:
      values: base values.
      stand_ins: of them, None where there is none.
      deltas: of them, None where zero.
    """

    values: list[jax.Array]
    stand_ins: Arrays
    deltas: Arrays

    def part(self, start: int, stop: int | None) -> "Beside":
        """Some of the values in order."""
        return Beside(self.values[start:stop], self.stand_ins[start:stop], self.deltas[start:stop])


def _beside(at: Application, deltas: list[Delta]) -> Beside:
    pairs = zip(at.bases, at.values, strict=True)
    stand_ins = [None if base is value else base for base, value in pairs]
    return Beside(at.values, stand_ins, dense_or_none(deltas, at.bases))


def _run(
    program: Program,
    inputs: Sequence[Beside],
    delta_dtype: jax.typing.DTypeLike | None,
    known: Values | None = None,
) -> tuple[list[jax.Array], list[Delta], Arrays]:
    """Base outputs of a program, the deltas that go with them, and what stands in for them.

    ``known`` are its base values, as far as they have been evaluated before.
    """
    found = base_values(program, [v for group in inputs for v in group.values], known)
    stand_ins = [other for group in inputs for other in group.stand_ins]
    pairs = zip(program.inputs, stand_ins, strict=True)
    deltas, others = propagate_beside(
        program,
        found,
        [ZERO if array is None else array for group in inputs for array in group.deltas],
        {number: other for number, other in pairs if other is not None},
        delta_dtype,
    )
    outputs = [read(found, item) for item in program.outputs]
    return (
        outputs,
        deltas,
        [None if isinstance(o, Constant) else others.get(o) for o in program.outputs],
    )


def _probe(
    program: Program, inputs: Sequence[Beside], delta_dtype: jax.typing.DTypeLike | None
) -> tuple[bool, list[bool]]:
    """Whether an integer or boolean output moves, and which outputs have stand-ins."""
    seen = []

    def run(inputs: Sequence[Beside]) -> None:
        _, deltas, others = _run(program, inputs, delta_dtype)
        seen.append(any(isinstance(delta, Moved) for delta in deltas))
        seen.append([other is not None for other in others])

    jax.eval_shape(run, inputs)
    return seen[0], seen[1]


def _carried(carry: Beside, with_stand_ins: bool) -> Beside:
    """A carry of which every floating-point part may move, and may have a stand-in."""
    kept = zip(carry.values, carry.stand_ins, strict=True)
    deltas = [
        dense(ZERO, value) if array is None and is_float(value) else array
        for value, array in zip(carry.values, carry.deltas, strict=True)
    ]
    stand_ins = [
        value if other is None and with_stand_ins and is_float(value) else other
        for value, other in kept
    ]
    return Beside(carry.values, stand_ins, deltas)


@rule("scan", takes="body", decides=True)
def scan(at: Application, deltas: list[Delta], signs: Signs) -> tuple[list[Delta], list[jax.Array]]:
    """A scan over base and delta together; a carry that moves once is carried as dense."""
    program, inputs = flatten_jaxpr(at.params["jaxpr"]), _beside(at, deltas)
    num_consts, num_carry = layout = scan_layout(at.eqn, at.bases, at.outputs)
    consts, xs = inputs.part(0, num_consts), inputs.part(num_consts + num_carry, None)
    start = inputs.part(num_consts, num_consts + num_carry)
    doubtful = any(other is not None for other in start.stand_ins)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    carry = _carried(start, doubtful)
    moves, others = _probe(program, (consts, carry, first), at.delta_dtype)
    if not doubtful and any(others[:num_carry]):
        carry = _carried(start, True)
        moves, others = _probe(program, (consts, carry, first), at.delta_dtype)
    if moves:
        return subtracted(at, deltas)

    turns = at.inside
    if turns is None and fits(at.eqn, program):
        turns = turns_of(at.eqn, inputs.values, layout)[1]
    still = dict(zip(program.inputs, consts.values, strict=False))

    def step(carry: Beside, x: tuple[Beside, Values | None]) -> tuple[Beside, Pair]:
        here, turn = x
        known = None if turn is None else {**still, **turn}
        outputs, moved, found = _run(program, (consts, carry, here), at.delta_dtype, known)
        arrays = [
            dense(d, out) if is_float(out) else None for d, out in zip(moved, outputs, strict=True)
        ]
        kept = [
            None if old is None else (out if new is None else new)
            for old, new, out in zip(
                carry.stand_ins, found[:num_carry], outputs[:num_carry], strict=True
            )
        ]
        after = Beside(outputs[:num_carry], kept, arrays[:num_carry])
        return after, (arrays[num_carry:], found[num_carry:])

    final, (arrays, found) = lax.scan(step, carry, (xs, turns), **scan_options(at.eqn))
    return _results(at, [*final.deltas, *arrays], [*final.stand_ins, *found])


def _results(
    at: Application, arrays: Sequence[jax.Array | None], stand_ins: Sequence[jax.Array | None]
) -> tuple[list[Delta], list[jax.Array]]:
    pairs = zip(at.results, stand_ins, strict=True)
    return (
        [ZERO if array is None else array for array in arrays],
        [result if other is None else other for result, other in pairs],
    )


@rule("cond", takes="body", decides=True)
def cond(at: Application, deltas: list[Delta], signs: Signs) -> tuple[list[Delta], list[jax.Array]]:
    """The taken branch's difference, as long as the choice itself does not move."""
    inputs = _beside(at, deltas).part(1, None)
    branches = [flatten_jaxpr(closed) for closed in at.params["branches"]]
    probed = [_probe(branch, (inputs,), at.delta_dtype) for branch in branches]
    if any(moves for moves, _ in probed):
        return subtracted(at, deltas)
    doubtful = any(any(others) for _, others in probed)

    def run_branch(program: Program, known: Values | None) -> Callable[[Beside], Pair]:
        def run(inputs: Beside) -> Pair:
            outputs, moved, found = _run(program, (inputs,), at.delta_dtype, known)
            arrays = [
                dense(d, out) if is_float(out) else None
                for d, out in zip(moved, outputs, strict=True)
            ]
            others = [
                (out if other is None else other) if doubtful and is_float(out) else None
                for out, other in zip(outputs, found, strict=True)
            ]
            return arrays, others

        return run

    known = at.inside or [None] * len(branches)
    return _results(at, *lax.switch(at.values[0], list(map(run_branch, branches, known)), inputs))
