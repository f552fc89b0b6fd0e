"""Loops: the difference runs inside them, beside the base."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from deepzero_jax.difference.application import Application, widened
from deepzero_jax.difference.base_values import (
    While,
    fits,
    scan_layout,
    scan_options,
    turns_of,
)
from deepzero_jax.difference.beside import (
    Beside,
    Pair,
    Results,
    of_results,
    probe,
    run_beside,
    subtracted_where,
    there,
)
from deepzero_jax.difference.edges import subtracted
from deepzero_jax.difference.program import Program, Values, flatten_jaxpr
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import Delta
from deepzero_jax.jaxprs import calls_host

# Of a loop of unknown length: its carry, and the number of the turn.
_State = tuple[Beside, jax.Array]


class _Body(NamedTuple):
    """What a loop repeats.

    Attributes:
      program: from constants, carry and what is scanned over to carry and what is stacked.
      consts: that it is given at every turn.
      delta_dtype: of operands of products of deltas, or None.
      unbounded: of the loop.
    """

    program: Program
    consts: Beside
    delta_dtype: DTypeLike | None
    unbounded: bool

    def start(self, carry: Beside, *more: Beside) -> Beside:
        """The carry of the first turn, with a place for whatever moves at a later one."""
        count, axes, doubtful = len(carry.values), carry.axes, any(there(carry.stand_ins))
        carry = carry.carried(there(carry.moves), doubtful)
        moving = there(carry.moves)
        while True:
            first = carry.carried(moving, doubtful).varying(axes)
            inputs = (self.consts, first, *more)
            seen = probe(self.program, inputs, self.delta_dtype, self.unbounded)
            after = seen.part(0, count)
            further = [a or b for a, b in zip(moving, there(after.moves), strict=True)]
            wider = [a | b for a, b in zip(axes, after.axes, strict=True)]
            found = (further, doubtful or any(there(after.stand_ins)), wider)
            if found == (moving, doubtful, axes):
                return first
            moving, doubtful, axes = found

    def turn(self, carry: Beside, *more: Beside, known: Values | None) -> tuple[Beside, Pair]:
        """The carry after a turn; moves and stand-ins of what is stacked."""
        inputs, count = (self.consts, carry, *more), len(carry.values)
        found = run_beside(self.program, inputs, self.delta_dtype, known, self.unbounded)
        stacked = found.part(count, None)
        after = found.part(0, count).carried(there(carry.moves), any(there(carry.stand_ins)))
        return after.varying(carry.axes), (stacked.moves, stacked.stand_ins)

    def known(self, turn: Values | None) -> Values | None:
        """Base values of a turn, of those that were kept."""
        if turn is None:
            return None
        return {**dict(zip(self.program.inputs, self.consts.values, strict=False)), **turn}


@rule("scan", takes="body", moved=True, decides=True)
def scan(at: Application, deltas: list[Delta], signs: Signs) -> Results:
    """A scan over base and delta together; a carry that moves once is carried as dense."""
    inputs = Beside.of(at, deltas)
    num_consts, num_carry = layout = scan_layout(at.eqn, at.bases, at.outputs)
    xs = inputs.part(num_consts + num_carry, None)
    program = flatten_jaxpr(at.params["jaxpr"])
    body = _Body(program, inputs.part(0, num_consts), at.delta_dtype, at.unbounded)
    carry = inputs.part(num_consts, num_consts + num_carry)
    if at.params["length"] == 0:
        still = [None] * (len(at.results) - num_carry)
        return of_results(at, [*carry.moves, *still], [*carry.stand_ins, *still])
    carry = body.start(carry, jax.eval_shape(lambda xs: jax.tree.map(lambda x: x[0], xs), xs))

    turns = at.inside
    if turns is None and fits(at.eqn, program):
        turns = turns_of(at.eqn, inputs.values, layout)[1]

    def step(carry: Beside, x: tuple[Beside, Values | None]) -> tuple[Beside, Pair]:
        return body.turn(carry, x[0], known=body.known(x[1]))

    final, (moves, others) = lax.scan(step, carry, (xs, turns), **scan_options(at.eqn))
    return of_results(at, [*final.moves, *moves], [*final.stand_ins, *others])


@rule("while", takes="body", moved=True, decides=True)
def while_loop(at: Application, deltas: list[Delta], signs: Signs) -> Results:
    """A loop over base and delta together for as long as both go on.

    Where the moved loop takes more or fewer turns than the base, it goes on by itself, and the
    results are subtracted. Where the body calls the host, answers at the base are read back,
    not asked for again; turns beyond those whose answers were kept are subtracted too.
    """
    if at.inside is None and calls_host(at.eqn):
        return subtracted(at, deltas)
    loop, inputs = While.of(at.eqn), Beside.of(at, deltas)
    tests, consts, carry = (inputs.part(*ends) for ends in loop.parts)
    body = _Body(loop.body, consts, at.delta_dtype, at.unbounded)
    start = body.start(carry)
    decides = any(there(probe(loop.test, (tests, start), at.delta_dtype).moves))
    num_kept = None if at.inside is None else len(jax.tree.leaves(at.inside)[0])
    far = While.of(widened(at).eqn) if decides else loop

    def go_on(tests: Beside, carry: Beside) -> tuple[jax.Array, jax.Array]:
        going = loop.goes_on([*tests.values, *carry.values])
        return going, far.goes_on([*tests.moved(), *carry.moved()]) if decides else going

    def both_go_on(state: _State) -> jax.Array:
        carry, number = state
        base, moved = go_on(tests, carry)
        return base & moved if num_kept is None else base & moved & (number < num_kept)

    def turn(state: _State) -> _State:
        carry, number = state
        kept = None if at.inside is None else jax.tree.map(lambda a: a[number], at.inside)
        return body.turn(carry, known=body.known(kept))[0], number + 1

    last, _ = lax.while_loop(both_go_on, turn, (start, jnp.int32(0)))
    if not decides and num_kept is None:
        return of_results(at, last.moves, last.stand_ins)

    def one_goes_on(operands: Beside) -> jax.Array:
        tests, _, carry = (operands.part(*ends) for ends in loop.parts)
        base, moved = go_on(tests, carry)
        return base | moved

    doubtful = any(there(last.stand_ins))
    operands, together = tests.then(consts).then(last), (last.moves, last.stand_ins)
    moves, others = subtracted_where(one_goes_on, at, operands, together, doubtful)
    if not decides:  # an integer or boolean that never moved
        moves = [None if before is None else m for before, m in zip(last.moves, moves, strict=True)]
    return of_results(at, moves, others if doubtful else [None] * len(others))
