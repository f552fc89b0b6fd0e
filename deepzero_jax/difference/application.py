"""One equation at its base values, and the difference that needs no rule.

**Stand-ins.** Where a base value is infinite or not a number, what it becomes may be finite
(``log`` at 0), and no difference leads from the one to the other. A delta then counts from a
finite stand-in: base + delta is always read as stand-in + delta, and where the base value is
finite the stand-in is that value. Only values that move have one, and only downstream of a
primitive that can make an infinity; that is decided while tracing, see ``Rule.edges``. Outside
of a ``Channel`` nothing moves, so an infinity there stays one: from the stand-in that is no zero,
which matters to whatever reads more than the channel, see ``Channel.stays``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.difference.precision import BITS, is_low, wide, wide_equation
from deepzero_jax.difference.program import Equation, apply
from deepzero_jax.difference.values import Delta, Moved, is_float, moved_value


class Application(NamedTuple):
    """One equation at its base values.

    Attributes:
      eqn: the primitive and its parameters.
      bases: values of the operands, or what stands in for them.
      outputs: base values of the results, or what stands in for them.
      delta_dtype: in which type products of deltas take their operands, or None.
      values: true base values of the operands.
      results: true base values of the results.
      sound: whether the closed form holds, by element of the only result: no operand or
        result has a stand-in there. None if that is so everywhere.
      guarded: whether the closed form may be undefined all the same.
      inside: base values within a loop or a branch, where they are known.
      unbounded: whether results may be infinite because a constant is.
    """

    eqn: Equation
    bases: list[jax.Array]
    outputs: list[jax.Array]
    delta_dtype: jax.typing.DTypeLike | None
    values: list[jax.Array]
    results: list[jax.Array]
    sound: jax.Array | None = None
    guarded: bool = False
    inside: Any = None
    unbounded: bool = False

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the primitive."""
        return self.eqn.params


def widened(at: Application) -> Application:
    """The same application in float32 if it is in a type of 16 bits or fewer."""
    if not any(map(is_low, [*at.bases, *at.outputs])):
        return at
    bfloat16 = any(jnp.result_type(value) == jnp.bfloat16 for value in at.bases)
    # A product of bfloat16 stays one: its rounding is relative to the delta.
    delta_dtype = jnp.bfloat16 if bfloat16 and at.delta_dtype is None else at.delta_dtype
    return at._replace(
        eqn=wide_equation(at.eqn),
        bases=list(map(wide, at.bases)),
        outputs=list(map(wide, at.outputs)),
        delta_dtype=delta_dtype,
    )


def has_stand_in(at: Application) -> bool:
    """Whether anything stands in for the value of an operand."""
    return any(base is not value for base, value in zip(at.bases, at.values, strict=True))


def evaluate_and_subtract(at: Application, deltas: Sequence[Delta]) -> list[Delta]:
    """The rule of last resort: right for every primitive, but it cancels."""
    is_rounded = any(map(is_low, [*at.values, *at.results]))
    if at.eqn.primitive.name not in BITS:
        at = widened(at)
    moved = [moved_value(delta, base) for delta, base in zip(deltas, at.bases, strict=True)]
    results = apply(at.eqn, moved)
    outputs = _unrounded(at) if is_rounded else at.outputs
    return [
        new - old if is_float(old) else Moved(new)
        for new, old in zip(results, outputs, strict=True)
    ]


def _unrounded(at: Application) -> list[jax.Array]:
    """The results at the base as new ones are computed: of a ``widened`` one in float32."""
    values = [jnp.asarray(v, b.dtype) for v, b in zip(at.values, at.bases, strict=True)]
    found = apply(at.eqn, values)
    return [
        jnp.where(jnp.isfinite(new) & jnp.isfinite(result), new, output) if is_float(new) else new
        for new, result, output in zip(found, at.results, at.outputs, strict=True)
    ]
