"""Loops and branches: the difference runs inside them, beside the base."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr

from deepzero_jax.difference.application import Application, evaluate_and_subtract
from deepzero_jax.difference.interpreter import propagate
from deepzero_jax.difference.program import evaluate, flatten_jaxpr, read
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import ZERO, Delta, Zero, dense, dense_or_none, is_float

# Deltas as a loop carries them: None for zero.
Arrays = list[jax.Array | None]
# Base values and their deltas.
Pair = tuple[list[jax.Array], Arrays]


def _body(
    closed: ClosedJaxpr,
    bases: list[jax.Array],
    arrays: Arrays,
    delta_dtype: jax.typing.DTypeLike | None,
) -> tuple[list[jax.Array], list[Delta]]:
    """Base outputs of a jaxpr and the deltas that go with them."""
    program = flatten_jaxpr(closed)
    values = evaluate(program, bases)
    deltas: list[Delta] = [ZERO if array is None else array for array in arrays]
    outputs = propagate(program, values, deltas, delta_dtype)
    return [read(values, item) for item in program.outputs], outputs


def _scan_layout(at: Application) -> tuple[int, int]:
    """Numbers of constants and carries of a scan.

    Read off the shapes, as the parameters that hold them differ between versions of JAX:
    what is scanned over, or stacked, has one axis more outside the body than inside.
    """
    body = at.params["jaxpr"].jaxpr
    num_xs = sum(
        jnp.ndim(outside) != len(inside.aval.shape)
        for outside, inside in zip(at.bases, body.invars, strict=True)
    )
    num_carry = sum(
        jnp.ndim(outside) == len(inside.aval.shape)
        for outside, inside in zip(at.outputs, body.outvars, strict=True)
    )
    return len(at.bases) - num_carry - num_xs, num_carry


@rule("scan")
def scan(at: Application, deltas: list[Delta]) -> list[Delta]:
    """A scan over base and delta together; a carry that moves once is carried as dense."""
    params = at.params
    num_consts, num_carry = _scan_layout(at)
    if not all(is_float(output) for output in at.outputs[num_carry:]):
        return evaluate_and_subtract(at, deltas)
    if not all(is_float(b) for b in at.bases[num_consts : num_consts + num_carry]):
        moving = [not isinstance(d, Zero) for d in deltas]
        if any(moving[num_consts : num_consts + num_carry]):
            return evaluate_and_subtract(at, deltas)
    arrays = dense_or_none(deltas, at.bases)
    # Every floating-point carry may come to move after a turn: carry them all.
    for i in range(num_consts, num_consts + num_carry):
        if arrays[i] is None and is_float(at.bases[i]):
            arrays[i] = jnp.zeros_like(at.bases[i])
    consts, d_consts = at.bases[:num_consts], arrays[:num_consts]
    last = num_consts + num_carry

    def step(carry: Pair, xs: Pair) -> tuple[Pair, list[jax.Array]]:
        (base, delta), (x, d_x) = carry, xs
        outputs, moved = _body(
            params["jaxpr"], [*consts, *base, *x], [*d_consts, *delta, *d_x], at.delta_dtype
        )
        new_delta = [
            None if old is None else dense(new, out)
            for old, new, out in zip(delta, moved[:num_carry], outputs[:num_carry], strict=True)
        ]
        stacked = [
            dense(d, out) for d, out in zip(moved[num_carry:], outputs[num_carry:], strict=True)
        ]
        return (outputs[:num_carry], new_delta), stacked

    (_, final), stacked = lax.scan(
        step,
        (at.bases[num_consts:last], arrays[num_consts:last]),
        (at.bases[last:], arrays[last:]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [ZERO if array is None else array for array in [*final, *stacked]]


@rule("cond")
def cond(at: Application, deltas: list[Delta]) -> list[Delta]:
    """The taken branch's difference, as long as the choice itself does not move."""
    bases, arrays = at.bases[1:], dense_or_none(deltas[1:], at.bases[1:])

    def branch(closed: ClosedJaxpr) -> Callable[[Pair], list[jax.Array]]:
        def run(operands: Pair) -> list[jax.Array]:
            outputs, moved = _body(closed, operands[0], operands[1], at.delta_dtype)
            return [dense(d, out) for d, out in zip(moved, outputs, strict=True)]

        return run

    branches = [branch(closed) for closed in at.params["branches"]]
    return list(lax.switch(at.bases[0], branches, (bases, arrays)))
