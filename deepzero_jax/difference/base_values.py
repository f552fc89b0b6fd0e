"""Base values of a program; of loops and branches that call the host those inside too."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.cost import size_bytes
from deepzero_jax.difference.program import (
    Equation,
    Program,
    Values,
    apply,
    evaluate,
    flatten_jaxpr,
    inside,
    read,
)
from deepzero_jax.jaxprs import calls_host
from deepzero_jax.types import PyTree

# Up to here the base values of all turns of a loop are kept, beyond they are computed again.
KEPT_BYTES = 128 * 2**20
# Of so many turns of a loop of unknown length the answers of the host are kept.
KEPT_TURNS = 128


def base_values(
    program: Program, inputs: Sequence[jax.Array], known: Values | None = None
) -> Values:
    """Every base value of a program, by variable number.

    Of loops and branches that call the host also those inside, so that no pass of deltas calls
    it again for them.

    Args:
      program: flat equations.
      inputs: values of its inputs.
      known: base values, all or some, that have been evaluated before.
    """
    values = dict(zip(program.inputs, inputs, strict=True)) | (known or {})
    for eqn in program.equations:
        if all(number in values for number in eqn.outputs) and (eqn.outputs or known):
            continue
        values.update(results_of(eqn, [read(values, item) for item in eqn.inputs]))
    return values


def results_of(eqn: Equation, operands: Sequence[jax.Array]) -> Values:
    """The results of an equation by variable number, and as ``base_values`` what is inside."""
    within = None
    if eqn.primitive.name in _WITHIN and calls_host(eqn):
        results, within = _WITHIN[eqn.primitive.name](eqn, operands)
    else:
        results = apply(eqn, operands)
    found: Values = dict(zip(eqn.outputs, results, strict=True))
    return found if within is None else {**found, inside(eqn): within}


def _asked(program: Program, values: Values) -> Values:
    """Of all values those that the host gave."""
    found: Values = {}
    for eqn in program.equations:
        if calls_host(eqn):
            found.update((number, values[number]) for number in eqn.outputs)
            if inside(eqn) in values:
                found[inside(eqn)] = values[inside(eqn)]
    return found


def scan_layout(eqn: Equation, operands: Sequence[Any], results: Sequence[Any]) -> tuple[int, int]:
    """Numbers of constants and carries of a scan.

    Read off the shapes, as the parameters that hold them differ between versions of JAX:
    what is scanned over, or stacked, has one axis more outside the body than inside.
    """
    body = eqn.params["jaxpr"].jaxpr
    num_xs = sum(
        jnp.ndim(outside) != len(inner.aval.shape)
        for outside, inner in zip(operands, body.invars, strict=True)
    )
    num_carry = sum(
        jnp.ndim(outside) == len(inner.aval.shape)
        for outside, inner in zip(results, body.outvars, strict=True)
    )
    return len(operands) - num_carry - num_xs, num_carry


def turns_of(
    eqn: Equation, operands: Sequence[jax.Array], layout: tuple[int, int]
) -> tuple[list[jax.Array], Values]:
    """Results of a scan, and every base value of every turn, stacked.

    They depend on nothing that moves, so a loop over perturbations does not repeat them. Where
    that is too much to keep, what the host gave.
    """
    program, (num_consts, num_carry) = flatten_jaxpr(eqn.params["jaxpr"]), layout
    consts, last = operands[:num_consts], num_consts + num_carry
    still, fit = dict(zip(program.inputs, consts, strict=False)), fits(eqn, program)

    def turn(carry: list[jax.Array], x: list[jax.Array]) -> tuple[list[jax.Array], PyTree]:
        found = base_values(program, [*consts, *carry, *x])
        after = [read(found, item) for item in program.outputs]
        kept = found if fit else _asked(program, found)
        kept = {number: value for number, value in kept.items() if number not in still}
        return after[:num_carry], (after[num_carry:], kept)

    start, xs = list(operands[num_consts:last]), list(operands[last:])
    final, (stacked, turns) = lax.scan(turn, start, xs, **scan_options(eqn))
    return [*final, *stacked], turns


def fits(eqn: Equation, program: Program) -> bool:
    """Whether the values of every turn of a scan may be kept."""
    sizes = [size for inner in program.equations for size in inner.output_bytes]
    return eqn.params["length"] * sum(sizes) <= KEPT_BYTES


def scan_options(eqn: Equation) -> dict[str, Any]:
    """How a scan runs, as ``lax.scan`` takes it."""
    return {name: eqn.params[name] for name in ("length", "reverse", "unroll")}


def _scan_within(eqn: Equation, operands: Sequence[jax.Array]) -> tuple[list[jax.Array], Values]:
    shapes = jax.eval_shape(lambda *operands: apply(eqn, operands), *operands)
    return turns_of(eqn, operands, scan_layout(eqn, operands, shapes))


def _cond_within(
    eqn: Equation, operands: Sequence[jax.Array]
) -> tuple[list[jax.Array], list[Values]]:
    """Results of a choice, and what the host gave in each branch: zeros in those not taken."""
    programs = list(map(flatten_jaxpr, eqn.params["branches"]))

    def asked(program: Program, inputs: Sequence[jax.Array]) -> tuple[list[jax.Array], Values]:
        found = base_values(program, inputs)
        return [read(found, item) for item in program.outputs], _asked(program, found)

    inputs = list(operands[1:])
    likes = [jax.eval_shape(partial(asked, program), inputs)[1] for program in programs]

    def branch(place: int, inputs: list[jax.Array]) -> tuple[list[jax.Array], list[Values]]:
        results, mine = asked(programs[place], inputs)
        zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), likes)
        return results, [*zeros[:place], mine, *zeros[place + 1 :]]

    branches = [partial(branch, place) for place in range(len(programs))]
    return lax.switch(operands[0], branches, inputs)


class While(NamedTuple):
    """The parts of a ``while`` equation.

    Attributes:
      test: from its constants and the carry to whether the loop goes on.
      body: from its constants and the carry to the carry.
      parts: where the constants of the test, those of the body and the carry begin and end.
    """

    test: Program
    body: Program
    parts: tuple[tuple[int, int | None], ...]

    @classmethod
    def of(cls, eqn: Equation) -> "While":
        """Of an equation."""
        tests = eqn.params["cond_nconsts"]
        consts = tests + eqn.params["body_nconsts"]
        test, body = (flatten_jaxpr(eqn.params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
        return cls(test, body, ((0, tests), (tests, consts), (consts, None)))

    def goes_on(self, inputs: Sequence[jax.Array]) -> jax.Array:
        """Whether there is another turn, for the inputs of the test."""
        return read(evaluate(self.test, inputs), self.test.outputs[0])


def _while_within(
    eqn: Equation, operands: Sequence[jax.Array]
) -> tuple[list[jax.Array], Values | None]:
    """Results of a loop, and what the host gave in its first turns."""
    loop = While.of(eqn)
    if any(map(calls_host, loop.test.equations)):
        return apply(eqn, operands), None
    tests, consts, start = (list(operands[slice(*ends)]) for ends in loop.parts)

    def asked(carry: list[jax.Array]) -> tuple[list[jax.Array], Values]:
        found = base_values(loop.body, [*consts, *carry])
        return [read(found, item) for item in loop.body.outputs], _asked(loop.body, found)

    likes = jax.eval_shape(asked, start)[1]
    size = sum(map(size_bytes, jax.tree.leaves(likes)))
    kept_turns = min(KEPT_TURNS, KEPT_BYTES // max(size, 1))
    if kept_turns == 0:
        return apply(eqn, operands), None

    def turn(
        state: tuple[list[jax.Array], Values, jax.Array],
    ) -> tuple[list[jax.Array], Values, jax.Array]:
        carry, kept, number = state
        after, mine = asked(carry)
        put = lambda array, value: array.at[number].set(value, mode="drop")
        return after, jax.tree.map(put, kept, mine), number + 1

    kept = jax.tree.map(lambda like: jnp.zeros((kept_turns, *like.shape), like.dtype), likes)
    first = (start, kept, jnp.int32(0))
    carry, kept, _ = lax.while_loop(lambda state: loop.goes_on([*tests, *state[0]]), turn, first)
    return carry, kept


_WITHIN: dict[str, Callable[[Equation, Sequence[jax.Array]], tuple[list[jax.Array], Any]]] = {
    "scan": _scan_within,
    "cond": _cond_within,
    "while": _while_within,
}
