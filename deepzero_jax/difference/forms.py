"""What a rule's function may take, and how each form is applied to deltas."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.values import (
    Channel,
    Delta,
    common_channel,
    dense,
    dense_or_none,
    take,
)

# A rule's function, in any of the forms below.
Function = Callable[..., Any]
Form = Callable[[Function, Application, list[Delta]], list[Delta]]
Arrays = Sequence[jax.Array | None]


def elements(formula: Function, at: Application, deltas: list[Delta]) -> list[Delta]:
    """A formula for each element; where all deltas lie in one channel, for that channel alone."""
    output = at.outputs[0]
    bases = [jnp.asarray(base) for base in at.bases]
    channel = common_channel(deltas, bases, output)
    if channel is None:
        return [_staged(formula, bases, dense_or_none(deltas, bases), output, at.params)]
    sliced = [b if b.ndim == 0 else take(b, channel.axis, channel.index) for b in bases]
    moves = [d.array if isinstance(d, Channel) else None for d in deltas]
    here = take(output, channel.axis, channel.index)
    result = _staged(formula, sliced, moves, here, at.params)
    return [Channel(result, channel.axis, channel.index)]


_STAGED: dict[tuple[Any, ...], Callable[..., jax.Array]] = {}


def _staged(
    formula: Function,
    bases: Sequence[jax.Array],
    deltas: Arrays,
    output: jax.Array,
    params: dict[str, Any],
) -> jax.Array:
    """A formula that is traced once for every kind of operands, and then copied in.

    A network applies the same few formulas thousands of times; tracing each anew was a
    third of the time to trace a step.
    """
    try:
        key = (formula, *sorted(params.items()))
        chosen = _STAGED.get(key)
    except TypeError:  # parameters that cannot be compared or hashed
        return formula(bases, deltas, output, **params)
    if chosen is None:
        chosen = jax.jit(lambda x, d, y: formula(x, d, y, **params), inline=True)
        _STAGED[key] = chosen
    return chosen(bases, deltas, output)


def arrays(formula: Function, at: Application, deltas: list[Delta]) -> list[Delta]:
    """A formula of whole arrays; of several results if the primitive has them."""
    several = at.eqn.primitive.multiple_results
    outputs = at.outputs if several else at.outputs[0]
    result = formula(at.bases, dense_or_none(deltas, at.bases), outputs, **at.params)
    return list(result) if several else [result]


def channel(
    where: Callable[[Application, Channel], Channel | None], at: Application, deltas: list[Delta]
) -> list[Delta]:
    """A primitive that is linear in its first operand; ``where`` says what becomes of a channel."""
    delta = deltas[0]
    if isinstance(delta, Channel):
        kept = where(at, delta)
        if kept is not None:
            return [kept]
    operand = dense(delta, at.bases[0]).astype(at.bases[0].dtype)
    return [at.eqn.primitive.bind(operand, *at.bases[1:], **at.params)]


def all_deltas(
    function: Callable[[Application, list[Delta]], list[Delta]],
    at: Application,
    deltas: list[Delta],
) -> list[Delta]:
    """The function itself."""
    return function(at, deltas)


FORMS: dict[str, Form] = {
    "elements": elements,
    "arrays": arrays,
    "channel": channel,
    "deltas": all_deltas,
}
