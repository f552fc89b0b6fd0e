"""Rules that move values about: linear, so the delta takes the same way; channels stay channels."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.cpu import staged_sum
from deepzero_jax.difference.rules import (
    Application,
    as_channel,
    common_channel,
    evaluate_and_subtract,
    rule,
)
from deepzero_jax.difference.values import (
    ZERO,
    Channel,
    Delta,
    Moved,
    Zero,
    dense,
    moved_value,
    take,
)


def _on_dense(at: Application, delta: Delta) -> list[Delta]:
    """A linear primitive on the dense delta of its first operand; the others have none."""
    operands = [dense(delta, at.bases[0]).astype(at.bases[0].dtype), *at.bases[1:]]
    result = at.eqn.primitive.bind(*operands, **at.params)
    return [result]


def _unary(at: Application, deltas: list[Delta]) -> Channel | list[Delta]:
    """The first operand's delta as a channel, or the finished answer where it is none."""
    if not all(isinstance(d, Zero) for d in deltas[1:]) or isinstance(deltas[0], Moved):
        return evaluate_and_subtract(at, deltas)
    delta = as_channel(deltas[0], at.bases[0])
    return delta if isinstance(delta, Channel) else _on_dense(at, delta)


@rule("reshape")
def reshape(at: Application, deltas: list[Delta]) -> list[Delta]:
    """A channel survives if its axis does: equal size and equal extent of what follows it."""
    delta = _unary(at, deltas)
    if not isinstance(delta, Channel):
        return delta
    old, new = at.bases[0].shape, at.outputs[0].shape
    if at.params.get("dimensions") is None:
        after = _product(old[delta.axis + 1 :])
        for axis, size in enumerate(new):
            if size == old[delta.axis] and _product(new[axis + 1 :]) == after:
                rest = [s for a, s in enumerate(new) if a != axis]
                return [Channel(delta.array.reshape(rest), axis, delta.index)]
    return _on_dense(at, delta)


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


@rule("squeeze")
def squeeze(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Axes of size one go; a channel on another axis moves up."""
    delta = _unary(at, deltas)
    if not isinstance(delta, Channel):
        return delta
    dropped = [a % at.bases[0].ndim for a in at.params["dimensions"]]
    if delta.axis in dropped:
        return _on_dense(at, delta)
    rest = [a if a < delta.axis else a - 1 for a in dropped]
    axis = delta.axis - sum(a < delta.axis for a in dropped)
    return [Channel(lax.squeeze(delta.array, rest), axis, delta.index)]


@rule("expand_dims")
def expand_dims(at: Application, deltas: list[Delta]) -> list[Delta]:
    """As reshape, which it is."""
    return reshape(at._replace(eqn=at.eqn._replace(params={})), deltas)


@rule("broadcast_in_dim")
def broadcast_in_dim(at: Application, deltas: list[Delta]) -> list[Delta]:
    """A channel survives unless its axis is a single one that is spread out."""
    delta = _unary(at, deltas)
    if not isinstance(delta, Channel):
        return delta
    where = at.params["broadcast_dimensions"]
    shape = at.outputs[0].shape
    axis = where[delta.axis]
    if at.bases[0].shape[delta.axis] != shape[axis]:
        return _on_dense(at, delta)
    rest = [s for a, s in enumerate(shape) if a != axis]
    to = [w if w < axis else w - 1 for a, w in enumerate(where) if a != delta.axis]
    return [Channel(lax.broadcast_in_dim(delta.array, rest, to), axis, delta.index)]


@rule("transpose")
def transpose(at: Application, deltas: list[Delta]) -> list[Delta]:
    """The channel's axis goes where the permutation puts it."""
    delta = _unary(at, deltas)
    if not isinstance(delta, Channel):
        return delta
    order = list(at.params["permutation"])
    axis = order.index(delta.axis)
    rest = [a if a < delta.axis else a - 1 for a in order if a != delta.axis]
    return [Channel(lax.transpose(delta.array, rest), axis, delta.index)]


@rule("slice")
def slice_(at: Application, deltas: list[Delta]) -> list[Delta]:
    """A channel survives where its axis is taken whole."""
    delta = _unary(at, deltas)
    if not isinstance(delta, Channel):
        return delta
    starts, limits, strides = (
        list(at.params[name] or [1] * at.bases[0].ndim)
        for name in ("start_indices", "limit_indices", "strides")
    )
    if at.outputs[0].shape[delta.axis] != at.bases[0].shape[delta.axis]:
        return _on_dense(at, delta)
    for values in (starts, limits, strides):
        del values[delta.axis]
    return [Channel(lax.slice(delta.array, starts, limits, strides), delta.axis, delta.index)]


@rule("pad")
def pad(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Padding has no delta; on the channel's own axis it shifts the index."""
    if not isinstance(deltas[1], Zero):
        return evaluate_and_subtract(at, deltas)
    delta = as_channel(deltas[0], at.bases[0])
    config = list(at.params["padding_config"])
    zero = jnp.zeros((), at.bases[0].dtype)
    if isinstance(delta, Channel):
        low, high, inner = config.pop(delta.axis)
        if low >= 0 and high >= 0 and inner == 0:
            index = delta.index if low == 0 else delta.index + jnp.int32(low)
            return [Channel(lax.pad(delta.array, zero, config), delta.axis, index)]
    return [lax.pad(dense(delta, at.bases[0]), zero, at.params["padding_config"])]


@rule("rev", "cumsum", "real", "imag", "reduce_window_sum", "copy", "dynamic_slice", "gather")
def linear_in_first(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Linear in the first operand, the others (indices) unmoved: the delta takes the same way."""
    if not all(isinstance(d, Zero) for d in deltas[1:]) or isinstance(deltas[0], Moved):
        return evaluate_and_subtract(at, deltas)
    if at.eqn.primitive.name != "gather":
        return _on_dense(at, deltas[0])
    # Out-of-range indices are filled; the fill has no delta.
    params = dict(at.params)
    if params.get("fill_value") is not None:
        params["fill_value"] = 0
    operand = dense(deltas[0], at.bases[0]).astype(at.bases[0].dtype)
    return [at.eqn.primitive.bind(operand, *at.bases[1:], **params)]


@rule("concatenate")
def concatenate(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Deltas side by side."""
    if any(isinstance(d, Moved) for d in deltas):
        return evaluate_and_subtract(at, deltas)
    parts = [dense(d, b).astype(b.dtype) for d, b in zip(deltas, at.bases, strict=True)]
    return [lax.concatenate(parts, at.params["dimension"])]


@rule("dynamic_update_slice")
def dynamic_update_slice(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Linear in operand and update."""
    if not all(isinstance(d, Zero) for d in deltas[2:]):
        return evaluate_and_subtract(at, deltas)
    operand, update = (dense(d, b) for d, b in zip(deltas[:2], at.bases[:2], strict=True))
    return [at.eqn.primitive.bind(operand, update, *at.bases[2:], **at.params)]


@rule("split")
def split(at: Application, deltas: list[Delta]) -> list[Delta]:
    """The pieces of the delta."""
    if isinstance(deltas[0], Moved):
        return evaluate_and_subtract(at, deltas)
    return list(at.eqn.primitive.bind(dense(deltas[0], at.bases[0]), **at.params))


@rule("select_n")
def select_n(at: Application, deltas: list[Delta]) -> list[Delta]:
    """The chosen case's delta; where the choice itself moves, new value minus old."""
    chooser, *cases = deltas
    output = at.outputs[0]
    if isinstance(chooser, Zero):
        cases = [as_channel(d, b) for d, b in zip(cases, at.bases[1:], strict=True)]
        channel = common_channel(cases, at.bases[1:], output)
        which = at.bases[0]
        if channel is not None:
            axis, index = channel.axis, channel.index
            arrays = [
                jnp.zeros_like(channel.array) if isinstance(d, Zero) else d.array for d in cases
            ]
            if jnp.ndim(which):
                which = take(which, axis, index)
            return [Channel(lax.select_n(which, *arrays), axis, index)]
        arrays = [dense(d, b) for d, b in zip(cases, at.bases[1:], strict=True)]
        return [lax.select_n(which, *arrays)]
    new_chooser = moved_value(chooser, at.bases[0])
    arrays = [dense(d, b) for d, b in zip(cases, at.bases[1:], strict=True)]
    moved = [b + d for d, b in zip(arrays, at.bases[1:], strict=True)]
    same = jnp.broadcast_to(new_chooser == at.bases[0], output.shape)
    changed = lax.select_n(new_chooser, *moved) - output
    return [jnp.where(same, lax.select_n(at.bases[0], *arrays), changed)]


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
    channel = isinstance(delta, Channel) and window[delta.axis] == 1
    if channel:
        del window[delta.axis]
        base, output = (take(v, delta.axis, delta.index) for v in (base, output))
        moved = delta.array
    else:
        moved = dense(delta, base)
    pairs = zip(_window_parts(base, window), _window_parts(moved, window), strict=True)
    result = None
    for old, change in pairs:
        part = (old - output) + change
        result = part if result is None else jnp.maximum(result, part)
    if channel:
        return [Channel(result, delta.axis, delta.index)]
    return [ZERO if result is None else result]


@rule("sort")
def sort(at: Application, deltas: list[Delta]) -> list[Delta]:
    """By evaluation: the order may change."""
    return evaluate_and_subtract(at, deltas)
