"""What stands in for base values that are infinite or not numbers, see ``application``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp

from deepzero_jax.difference.application import (
    Application,
    evaluate_and_subtract,
    has_stand_in,
)
from deepzero_jax.difference.program import apply
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import Channel, Delta, Moved, Point, Zero, is_float, take

# See the head of ``rules``.
Edges = Literal["none", "absorbed", "made"]
# Without a rule, but finite wherever their operands are.
_FINITE = {"cumprod", "cummax", "cummin", "reduce_prod", "sign", "round", "rem"}
_FINITE |= {"scatter-mul", "scatter-min", "scatter-max", "nextafter", "asinh", "cbrt"}


def with_stand_ins(at: Application, edges: Edges, signs: Signs | None) -> Application:
    """The application with what stands in for its results, and where its closed form holds."""
    doubtful = has_stand_in(at)
    finite = signs is not None and signs.finite(at.eqn)
    if not doubtful and (edges != "made" or finite):
        return at
    if edges == "none":
        # The identities between operands and results hold for the stand-ins too.
        others = apply(at.eqn, at.bases)
        return at._replace(outputs=list(map(_where_finite, at.results, others)))
    outputs = zero_where_infinite(at.results)
    sound = None
    if len(outputs) == 1:
        sound = jnp.isfinite(at.results[0])
        for base, value in zip(at.bases, at.values, strict=True):
            if base is not value:
                ends = jnp.isfinite(value)
                fits = jnp.shape(ends) in ((), jnp.shape(sound))
                sound = sound & (ends if fits else jnp.all(ends))
    return at._replace(outputs=outputs, sound=sound, guarded=True)


def zero_where_infinite(values: Sequence[jax.Array]) -> list[jax.Array]:
    """Values with zeros in the place of infinities and NaNs."""
    return [_where_finite(value, jnp.zeros_like(value)) for value in values]


def _where_finite(value: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(value), value, other) if is_float(value) else value


def zero_at_infinities(delta: Delta, value: jax.Array) -> Delta:
    """A delta of a value whose infinities stay what they are."""
    if isinstance(delta, Zero | Moved):
        return delta
    if isinstance(delta, Channel):
        there = take(value, delta.axis, delta.index)
        return replace(delta, array=jnp.where(jnp.isfinite(there), delta.array, 0))
    if isinstance(delta, Point):
        return delta._replace(value=jnp.where(jnp.isfinite(value[delta.indices]), delta.value, 0))
    return jnp.where(jnp.isfinite(value), delta, 0)


def subtracted(at: Application, deltas: Sequence[Delta]) -> tuple[list[Delta], list[jax.Array]]:
    """``evaluate_and_subtract``, with what stands in for the results."""
    edges = "none" if at.eqn.primitive.name in _FINITE else "made"
    at = with_stand_ins(at, edges, None)
    return evaluate_and_subtract(at, deltas), at.outputs
