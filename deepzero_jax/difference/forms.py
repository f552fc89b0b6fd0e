"""What a rule's function may take, and how each form is applied to deltas."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.platforms import forms
from deepzero_jax.difference.program import Equation, apply
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
        return [_staged(formula, at, bases, dense_or_none(deltas, bases), output, at.sound)]
    sliced = [b if b.ndim == 0 else take(b, channel.axis, channel.index) for b in bases]
    moves = [d.array if isinstance(d, Channel) else None for d in deltas]
    here = take(output, channel.axis, channel.index)
    sound = None if at.sound is None else take(at.sound, channel.axis, channel.index)
    result = _staged(formula, at, sliced, moves, here, sound)
    return [Channel(result, channel.axis, channel.index)]


_STAGED: dict[tuple[Any, ...], Callable[..., jax.Array]] = {}


def _staged(
    formula: Function,
    at: Application,
    bases: Sequence[jax.Array],
    deltas: Arrays,
    output: jax.Array,
    sound: jax.Array | None,
) -> jax.Array:
    """A formula that is traced once for every kind of operands, and then copied in.

    A network applies the same few formulas thousands of times; tracing each anew was a
    fifth of the time to trace a step.
    """
    plain, eqn, params = not at.guarded, at.eqn, at.params

    def whole(x: Sequence[jax.Array], d: Arrays, y: jax.Array, good: jax.Array | None) -> jax.Array:
        result = formula(x, d, y, **params)
        if plain:
            return result
        shape = jnp.shape(y)
        moved = [jnp.broadcast_to(m, shape) for m in _moved(x, d)]
        return _or_evaluated(eqn, moved, d, y, good, result)

    try:
        key = (formula, eqn.primitive, plain, forms(), *sorted(params.items()))
        chosen = _STAGED.get(key)
    except TypeError:  # parameters that cannot be compared or hashed
        return whole(bases, deltas, output, sound)
    if chosen is None:
        _STAGED[key] = chosen = jax.jit(whole, inline=True)
    return chosen(bases, deltas, output, sound)


def _moved(bases: Sequence[jax.Array], deltas: Arrays) -> list[jax.Array]:
    return [b if d is None else b + d for b, d in zip(bases, deltas, strict=True)]


def _or_evaluated(
    eqn: Equation,
    moved: Sequence[jax.Array],
    deltas: Arrays,
    output: jax.Array,
    sound: jax.Array | None,
    closed: jax.Array,
) -> jax.Array:
    """A closed form where it is defined, else the difference of the evaluations."""
    evaluated = apply(eqn, moved)[0] - output
    defined = jnp.isfinite(closed)
    conditions = [
        jnp.isfinite(d) for d in deltas if d is not None and jnp.ndim(d) in (0, jnp.ndim(output))
    ]
    for condition in [*conditions, *([] if sound is None else [sound])]:
        defined = defined & condition
    return jnp.where(defined, closed, evaluated)


def arrays(formula: Function, at: Application, deltas: list[Delta]) -> list[Delta]:
    """A formula of whole arrays; of several results if the primitive has them."""
    several = at.eqn.primitive.multiple_results
    outputs = at.outputs if several else at.outputs[0]
    moves = dense_or_none(deltas, at.bases)
    result = formula(at.bases, moves, outputs, **at.params)
    if several:
        return list(result)
    if at.guarded:
        moved = _moved(at.bases, moves)
        result = _or_evaluated(at.eqn, moved, [], at.outputs[0], at.sound, result)
    return [result]


def channel(
    where: Callable[[Application, Channel], Channel | None], at: Application, deltas: list[Delta]
) -> list[Delta]:
    """A primitive that is linear in its first operand; ``where`` says what becomes of a channel."""
    delta = deltas[0]
    if isinstance(delta, Channel):
        kept = where(at, delta)
        if kept is not None:
            return [kept]
    operand = dense(delta, at.bases[0])
    return [at.eqn.primitive.bind(operand, *at.bases[1:], **at.params)]


FORMS: dict[str, Form] = {
    "elements": elements,
    "arrays": arrays,
    "channel": channel,
    "deltas": lambda function, at, deltas: function(at, deltas),
}
