"""One equation at its base values, and the difference that needs no rule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from deepzero_jax.difference.program import Equation, apply
from deepzero_jax.difference.values import Delta, Moved, is_float, moved_value


class Application(NamedTuple):
    """One equation at its base values.

    Attributes:
      eqn: the primitive and its parameters.
      bases: values of the operands.
      outputs: base values of the results.
      delta_dtype: in which type products of deltas take their operands, or None.
    """

    eqn: Equation
    bases: list[jax.Array]
    outputs: list[jax.Array]
    delta_dtype: jax.typing.DTypeLike | None = None

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the primitive."""
        return self.eqn.params


def evaluate_and_subtract(at: Application, deltas: Sequence[Delta]) -> list[Delta]:
    """The rule of last resort: right for every primitive, but it cancels."""
    moved = [moved_value(delta, base) for delta, base in zip(deltas, at.bases, strict=True)]
    results = apply(at.eqn, moved)
    return [
        new - old if is_float(old) else Moved(new)
        for new, old in zip(results, at.outputs, strict=True)
    ]
