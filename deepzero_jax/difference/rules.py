"""The table of rules: how a primitive turns the deltas of its inputs into that of its output."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.difference.program import Equation, apply
from deepzero_jax.difference.values import (
    ZERO,
    Channel,
    Delta,
    Moved,
    Point,
    Zero,
    channel_of_point,
    dense,
    is_float,
    moved_value,
    take,
)


class Application(NamedTuple):
    """One equation at its base values.

    Attributes:
      eqn: the primitive and its parameters.
      bases: values of the inputs.
      outputs: base values of the outputs.
      delta_dtype: in which type products of deltas take their operands, or None.
    """

    eqn: Equation
    bases: list[Any]
    outputs: list[Any]
    delta_dtype: Any = None

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the primitive."""
        return self.eqn.params


Rule = Callable[[Application, list[Delta]], list[Delta]]
RULES: dict[str, Rule] = {}

# dense formula: (bases, deltas or None for zero, output base, params) -> delta of the output
Formula = Callable[..., jax.Array]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Puts a rule into the table under the names of primitives."""

    def put(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return put


def register_rule(primitive: Any, formula: Formula) -> None:
    """Registers how differences pass through a primitive of your own.

    Args:
      primitive: a JAX primitive or its name.
      formula: ``(primals, deltas, output, **params) -> delta``. ``primals`` and
        ``output`` are base values; ``deltas`` are arrays of the shapes of ``primals``,
        None where zero. It returns ``f(primals + deltas) − f(primals)``, an array like
        ``output`` (a tuple of them for several outputs), best in a form that does not
        cancel.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def exp_delta(primals, deltas, output, **params):
      ...     return output * jnp.expm1(deltas[0])
      >>> register_rule("exp", exp_delta)
    """

    def wrapped(at: Application, deltas: list[Delta]) -> list[Delta]:
        if any(isinstance(d, Moved) for d in deltas):
            return evaluate_and_subtract(at, deltas)
        several = at.eqn.primitive.multiple_results
        result = formula(
            at.bases,
            dense_or_none(deltas, at.bases),
            at.outputs if several else at.outputs[0],
            **at.params,
        )
        return list(result) if several else [result]

    RULES[primitive if isinstance(primitive, str) else primitive.name] = wrapped


def evaluate_and_subtract(at: Application, deltas: Sequence[Delta]) -> list[Delta]:
    """The rule of last resort: right for every primitive, but it cancels."""
    moved = [moved_value(delta, base) for delta, base in zip(deltas, at.bases, strict=True)]
    results = apply(at.eqn, moved)
    return [
        new - old if is_float(old) else Moved(new)
        for new, old in zip(results, at.outputs, strict=True)
    ]


def dense_or_none(deltas: Sequence[Delta], bases: Sequence[Any]) -> list[Any]:
    """Deltas as arrays, None where they are zero."""
    return [
        None if isinstance(d, Zero) else dense(d, b) for d, b in zip(deltas, bases, strict=True)
    ]


def as_channel(delta: Delta, base: Any) -> Delta:
    """A point as a channel along the last axis; other deltas as they are."""
    if isinstance(delta, Point) and delta.indices:
        return channel_of_point(delta, base.shape, base.ndim - 1)
    return delta


def common_channel(deltas: Sequence[Delta], bases: Sequence[Any], output: Any) -> Channel | None:
    """The channel to which all of the deltas that are not zero belong, if there is one.

    It must lie on an axis that every such operand has in full, so that an elementwise
    operation keeps it.
    """
    found = None
    for delta, base in zip(deltas, bases, strict=True):
        if isinstance(delta, Zero):
            continue
        if not isinstance(delta, Channel) or base.shape[delta.axis] != output.shape[delta.axis]:
            return None
        if found is None:
            found = delta
        elif delta.axis != found.axis or delta.index is not found.index:
            return None
    return found


def elementwise(*names: str) -> Callable[[Formula], Formula]:
    """Puts a formula for an elementwise primitive into the table.

    The formula takes ``(bases, deltas, output, **params)``, arrays that broadcast against
    each other, deltas None where zero. Where all deltas lie in one channel, it is
    evaluated on that channel alone.
    """

    def put(formula: Formula) -> Formula:
        staged = _staged(formula)

        def apply_formula(at: Application, deltas: list[Delta]) -> list[Delta]:
            if any(isinstance(d, Moved) for d in deltas):
                return evaluate_and_subtract(at, deltas)
            output = at.outputs[0]
            bases = [jnp.asarray(base) for base in at.bases]
            deltas = [as_channel(d, b) for d, b in zip(deltas, bases, strict=True)]
            channel = common_channel(deltas, bases, output)
            if channel is None:
                arrays = dense_or_none(deltas, bases)
                return [staged(bases, arrays, output, at.params)]
            sliced = [b if b.ndim == 0 else take(b, channel.axis, channel.index) for b in bases]
            arrays = [d.array if isinstance(d, Channel) else None for d in deltas]
            result = staged(sliced, arrays, take(output, channel.axis, channel.index), at.params)
            return [Channel(result, channel.axis, channel.index)]

        for name in names:
            RULES[name] = apply_formula
        return formula

    return put


def _staged(formula: Formula) -> Callable[..., jax.Array]:
    """A formula that is traced once for every kind of operands, and then copied in.

    A network applies the same few formulas thousands of times; tracing each anew was a
    third of the time to trace a step.
    """
    by_params: dict[Any, Callable[..., jax.Array]] = {}

    def apply_staged(bases: Any, deltas: Any, output: Any, params: dict[str, Any]) -> jax.Array:
        try:
            key = tuple(sorted(params.items()))
            chosen = by_params.get(key)
        except TypeError:  # parameters that cannot be compared or hashed
            return formula(bases, deltas, output, **params)
        if chosen is None:
            chosen = jax.jit(lambda x, d, y: formula(x, d, y, **params), inline=True)
            by_params[key] = chosen
        return chosen(bases, deltas, output)

    return apply_staged


def propagate_equation(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Deltas of the outputs of one equation."""
    if all(isinstance(delta, Zero) for delta in deltas):
        return [ZERO] * len(at.outputs)
    chosen = RULES.get(at.eqn.primitive.name)
    if chosen is None or not all(is_float(output) for output in at.outputs):
        return evaluate_and_subtract(at, deltas)
    return chosen(at, deltas)
