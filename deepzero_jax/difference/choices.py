"""Branches: the difference runs inside the one that is taken."""

from collections.abc import Callable

from jax import lax

from deepzero_jax.difference.application import Application
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
from deepzero_jax.difference.program import Program, Values, flatten_jaxpr
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import Delta


@rule("cond", takes="body", moved=True, decides=True)
def cond(at: Application, deltas: list[Delta], signs: Signs) -> Results:
    """The difference of the branch that the base takes; where another one is taken, of the two."""
    operands = Beside.of(at, deltas)
    results = _of_branch(at, operands)
    if operands.moves[0] is not None:
        changes = lambda operands: operands.values[0] != operands.moves[0]
        results = subtracted_where(changes, at, operands, results)
    return of_results(at, *results)


def _of_branch(at: Application, operands: Beside) -> Pair:
    """Moves and stand-ins of the results of the branch that the base takes."""
    inputs = operands.part(1, None)
    branches = [flatten_jaxpr(closed) for closed in at.params["branches"]]
    probed = [probe(branch, (inputs,), at.delta_dtype, at.unbounded) for branch in branches]
    move = [any(each) for each in zip(*(there(seen.moves) for seen in probed), strict=True)]
    doubtful = any(any(there(seen.stand_ins)) for seen in probed)

    def run_branch(program: Program, known: Values | None) -> Callable[[Beside], Pair]:
        def run(inputs: Beside) -> Pair:
            found = run_beside(program, (inputs,), at.delta_dtype, known, at.unbounded)
            full = found.carried(move, doubtful)
            return full.moves, full.stand_ins

        return run

    known = at.inside or [None] * len(branches)
    return lax.switch(at.values[0], list(map(run_branch, branches, known)), inputs)
