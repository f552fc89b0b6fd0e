"""Sums, extrema and pooling: linear, or in a form that is exactly zero where the winner stays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.cpu import staged_sum
from deepzero_jax.difference.rules import Application, as_channel, evaluate_and_subtract, rule
from deepzero_jax.difference.values import Channel, Delta, Moved, dense, take


@rule("reduce_sum")
def reduce_sum(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Linear; over the channel's own axis only the channel remains."""
    if isinstance(deltas[0], Moved):
        return evaluate_and_subtract(at, deltas)
    delta = as_channel(deltas[0], at.bases[0])
    axes = at.params["axes"]
    if not isinstance(delta, Channel):
        return [staged_sum(dense(delta, at.bases[0]), axes)]
    rest = [a if a < delta.axis else a - 1 for a in axes if a != delta.axis]
    total = staged_sum(delta.array, rest)
    if delta.axis in axes:
        return [total]
    return [Channel(total, delta.axis - sum(a < delta.axis for a in axes), delta.index)]


def _moved_extremum(at: Application, delta: Delta, reduce: Any) -> list[Delta]:
    """Δ max aᵢ = max((aᵢ − m) + Δaᵢ): zero exactly at the largest, so nothing cancels."""
    axes = tuple(at.params["axes"])
    base, output = at.bases[0], at.outputs[0]
    if isinstance(delta, Channel) and delta.axis not in axes:
        rest = tuple(a if a < delta.axis else a - 1 for a in axes)
        axis = delta.axis - sum(a < delta.axis for a in axes)
        kept = lax.expand_dims(take(output, axis, delta.index), rest)
        array = reduce((take(base, delta.axis, delta.index) - kept) + delta.array, axis=rest)
        return [Channel(array, axis, delta.index)]
    return [reduce((base - lax.expand_dims(output, axes)) + dense(delta, base), axis=axes)]


@rule("reduce_max")
def reduce_max(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ max aᵢ = max((aᵢ − m) + Δaᵢ), m the old maximum."""
    return _moved_extremum(at, as_channel(deltas[0], at.bases[0]), jnp.max)


@rule("reduce_min")
def reduce_min(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ min aᵢ = min((aᵢ − m) + Δaᵢ), m the old minimum."""
    return _moved_extremum(at, as_channel(deltas[0], at.bases[0]), jnp.min)


def _tiles(at: Application) -> bool:
    """Whether windows do not overlap and need no padding or dilation."""
    params = at.params
    return (
        tuple(params["window_dimensions"]) == tuple(params["window_strides"])
        and all(d == 1 for d in (*params["base_dilation"], *params["window_dilation"]))
        and all(lo == 0 and hi == 0 for lo, hi in params["padding"])
        and all(
            size % window == 0
            for size, window in zip(at.bases[0].shape, params["window_dimensions"], strict=True)
        )
    )


def _window_parts(value: jax.Array, window: list[int]) -> list[jax.Array]:
    """One strided slice for each position in the window."""
    parts = [value]
    for axis, size in enumerate(window):
        if size > 1:
            parts = [
                lax.slice_in_dim(part, offset, part.shape[axis], size, axis)
                for part in parts
                for offset in range(size)
            ]
    return parts


@rule("reduce_window_max")
def reduce_window_max(at: Application, deltas: list[Delta]) -> list[Delta]:
    """As reduce_max, window by window, where windows tile their input."""
    if not _tiles(at):
        return evaluate_and_subtract(at, deltas)
    window = list(at.params["window_dimensions"])
    base, output, delta = at.bases[0], at.outputs[0], as_channel(deltas[0], at.bases[0])
    if isinstance(delta, Channel) and window[delta.axis] == 1:
        del window[delta.axis]
        base, output = (take(v, delta.axis, delta.index) for v in (base, output))
        result = _moved_windows(base, delta.array, output, window)
        return [Channel(result, delta.axis, delta.index)]
    return [_moved_windows(base, dense(delta, base), output, window)]


def _moved_windows(
    base: jax.Array, moved: jax.Array, output: jax.Array, window: list[int]
) -> jax.Array:
    pairs = zip(_window_parts(base, window), _window_parts(moved, window), strict=True)
    return functools.reduce(jnp.maximum, [(old - output) + change for old, change in pairs])
