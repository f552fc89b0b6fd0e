"""Sums, extrema and pooling: linear, or in a form that is exactly zero where the winner stays."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.application import Application, evaluate_and_subtract
from deepzero_jax.difference.platforms import staged_sum
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import Channel, Delta, dense, in_full, minus, take


@rule("reduce_sum")
def reduce_sum(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Linear; over the channel's own axis only the channel remains."""
    delta = deltas[0]
    axes = at.params["axes"]
    if isinstance(delta, Channel) and delta.axis in axes:
        delta = in_full(delta, at.bases[0])
    if not isinstance(delta, Channel):
        return [staged_sum(dense(delta, at.bases[0]), axes)]
    rest = [a if a < delta.axis else a - 1 for a in axes if a != delta.axis]
    total = staged_sum(delta.array, rest)
    if delta.axis in axes:
        return [total]
    return [Channel(total, delta.axis - sum(a < delta.axis for a in axes), delta.index)]


def _moved_extremum(at: Application, delta: Delta, reduce: Callable[..., jax.Array]) -> list[Delta]:
    """Δ max aᵢ = max((aᵢ − m) + Δaᵢ): zero exactly at the largest, so nothing cancels."""
    axes = tuple(at.params["axes"])
    base, output = at.bases[0], at.outputs[0]
    if isinstance(delta, Channel) and delta.axis not in axes:
        rest = tuple(a if a < delta.axis else a - 1 for a in axes)
        axis = delta.axis - sum(a < delta.axis for a in axes)
        kept = lax.expand_dims(take(output, axis, delta.index), rest)
        array = reduce(minus(take(base, delta.axis, delta.index), kept) + delta.array, axis=rest)
        return [Channel(array, axis, delta.index)]
    return [reduce(minus(base, lax.expand_dims(output, axes)) + dense(delta, base), axis=axes)]


@rule("reduce_max", real=True)
def reduce_max(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ max aᵢ = max((aᵢ − m) + Δaᵢ), m the old maximum."""
    return _moved_extremum(at, deltas[0], jnp.max)


@rule("reduce_min", real=True)
def reduce_min(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ min aᵢ = min((aᵢ − m) + Δaᵢ), m the old minimum."""
    return _moved_extremum(at, deltas[0], jnp.min)


def _window_parts(
    value: jax.Array, params: dict[str, Any], padding_value: float
) -> list[jax.Array]:
    """One strided slice of the padded value for each position in the window."""
    fill = jnp.asarray(padding_value, value.dtype)
    padded = lax.pad(value, fill, [(lo, hi, 0) for lo, hi in params["padding"]])
    spans = [
        (size - 1) * step + 1
        for size, step in zip(params["window_dimensions"], params["window_dilation"], strict=True)
    ]
    strides = params["window_strides"]
    # The last start of a window, relative to the first.
    reach = [
        (size - span) // stride * stride + 1
        for size, span, stride in zip(padded.shape, spans, strides, strict=True)
    ]
    parts = []
    for offset in itertools.product(*map(range, params["window_dimensions"])):
        start = [o * step for o, step in zip(offset, params["window_dilation"], strict=True)]
        limit = [a + r for a, r in zip(start, reach, strict=True)]
        parts.append(lax.slice(padded, start, limit, strides))
    return parts


@rule("reduce_window_max", "reduce_window_min", real=True)
def reduce_window(at: Application, deltas: list[Delta]) -> list[Delta]:
    """As reduce_max and reduce_min, window by window."""
    params = dict(at.params)
    if any(d != 1 for d in params["base_dilation"]):
        return evaluate_and_subtract(at, deltas)
    extremum = jnp.maximum if at.eqn.primitive.name == "reduce_window_max" else jnp.minimum
    base, output, delta = at.bases[0], at.outputs[0], deltas[0]
    names = ("window_dimensions", "window_strides", "window_dilation", "padding")
    if isinstance(delta, Channel) and base.shape[delta.axis] == output.shape[delta.axis]:
        alone = all(params[name][delta.axis] == 1 for name in names[:3])
        if alone and tuple(params["padding"][delta.axis]) == (0, 0):
            for name in names:
                params[name] = [v for a, v in enumerate(params[name]) if a != delta.axis]
            base, output = (take(v, delta.axis, delta.index) for v in (base, output))
            result = _moved_windows(base, delta.array, output, params, extremum)
            return [Channel(result, delta.axis, delta.index)]
    return [_moved_windows(base, dense(delta, base), output, params, extremum)]


def _moved_windows(
    base: jax.Array,
    moved: jax.Array,
    output: jax.Array,
    params: dict[str, Any],
    extremum: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    last = -jnp.inf if extremum is jnp.maximum else jnp.inf
    pairs = zip(_window_parts(base, params, last), _window_parts(moved, params, 0.0), strict=True)
    return functools.reduce(extremum, [(old - output) + change for old, change in pairs])
