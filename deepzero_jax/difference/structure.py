"""Rules that move values about: linear, so the delta takes the same way; channels stay channels."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.application import (
    Application,
    evaluate_and_subtract,
    has_stand_in,
    widened,
)
from deepzero_jax.difference.edges import with_stand_ins
from deepzero_jax.difference.program import apply
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import (
    Channel,
    Delta,
    Moved,
    Zero,
    common_channel,
    dense,
    in_full,
    is_float,
    minus,
    moved_value,
    take,
)


@rule("reshape", takes="channel", moving=(0,))
def reshape(at: Application, delta: Channel) -> Channel | None:
    """A channel survives if its axis does: equal size and equal extent of what follows it."""
    old, new = at.bases[0].shape, at.outputs[0].shape
    if at.params.get("dimensions") is None:
        after = math.prod(old[delta.axis + 1 :])
        for axis, size in enumerate(new):
            if size == old[delta.axis] and math.prod(new[axis + 1 :]) == after:
                rest = [s for a, s in enumerate(new) if a != axis]
                return Channel(delta.array.reshape(rest), axis, delta.index)
    return None


@rule("squeeze", takes="channel", moving=(0,))
def squeeze(at: Application, delta: Channel) -> Channel | None:
    """Axes of size one go; a channel on another axis moves up."""
    dropped = [a % at.bases[0].ndim for a in at.params["dimensions"]]
    if delta.axis in dropped:
        return None
    rest = [a if a < delta.axis else a - 1 for a in dropped]
    axis = delta.axis - sum(a < delta.axis for a in dropped)
    return Channel(lax.squeeze(delta.array, rest), axis, delta.index)


@rule("broadcast_in_dim", takes="channel", moving=(0,))
def broadcast_in_dim(at: Application, delta: Channel) -> Channel | None:
    """A channel survives unless its axis is a single one that is spread out."""
    where = at.params["broadcast_dimensions"]
    shape = at.outputs[0].shape
    axis = where[delta.axis]
    if at.bases[0].shape[delta.axis] != shape[axis]:
        return None
    rest = [s for a, s in enumerate(shape) if a != axis]
    to = [w if w < axis else w - 1 for a, w in enumerate(where) if a != delta.axis]
    return Channel(lax.broadcast_in_dim(delta.array, rest, to), axis, delta.index)


@rule("transpose", takes="channel", moving=(0,))
def transpose(at: Application, delta: Channel) -> Channel | None:
    """The channel's axis goes where the permutation puts it."""
    order = list(at.params["permutation"])
    axis = order.index(delta.axis)
    rest = [a if a < delta.axis else a - 1 for a in order if a != delta.axis]
    return Channel(lax.transpose(delta.array, rest), axis, delta.index)


@rule("slice", takes="channel", moving=(0,))
def slice_(at: Application, delta: Channel) -> Channel | None:
    """A channel survives where its axis is taken whole."""
    starts, limits, strides = (
        list(at.params[name] or [1] * at.bases[0].ndim)
        for name in ("start_indices", "limit_indices", "strides")
    )
    if at.outputs[0].shape[delta.axis] != at.bases[0].shape[delta.axis]:
        return None
    for values in (starts, limits, strides):
        del values[delta.axis]
    return Channel(lax.slice(delta.array, starts, limits, strides), delta.axis, delta.index)


@rule("pad")
def pad(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Linear in operand and padding; on the channel's own axis padding shifts the index."""
    delta, around = deltas
    config = list(at.params["padding_config"])
    zero = dense(around, at.bases[1])
    if isinstance(delta, Channel) and isinstance(around, Zero):
        low, high, inner = config.pop(delta.axis)
        if low >= 0 and high >= 0 and inner == 0:
            index = _shifted(delta.index, low)
            return [Channel(lax.pad(delta.array, zero, config), delta.axis, index)]
    return [lax.pad(dense(delta, at.bases[0]), zero, at.params["padding_config"])]


def _shifted(index: jax.Array, by: int) -> jax.Array:
    """The index, itself where it is not shifted: channels of one index are known by it."""
    return index if by == 0 else index + jnp.int32(by)


@rule("rev", "cumsum", "reduce_window_sum", "tile", takes="channel", moving=(0,))
def linear(at: Application, delta: Channel) -> None:
    """Linear in the first operand; a channel becomes dense."""


@rule("dynamic_slice", "dynamic_update_slice", "gather", moved=True)
@rule("scatter", "scatter-add", "scatter-sub", moved=True)
def at_places(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Linear in what is read or written; what is overwritten loses its delta.

    Where the places move, the delta is that of the base values, at the new places and at the
    old, and their own deltas at the new. What lies out of range may be filled, and the fill has
    no delta. Not what ``.at[].apply`` makes of the operand, a ``scatter`` by a function of its own.
    """
    name, params = at.eqn.primitive.name, dict(at.params)
    if name == "scatter" and params["update_jaxpr"] is not None:
        return evaluate_and_subtract(at, deltas)
    if params.get("fill_value") is not None:
        params["fill_value"] = 0
    pairs = list(zip(deltas, at.bases, strict=True))
    moved = [dense(d, b) if is_float(b) else moved_value(d, b) for d, b in pairs]
    result = at.eqn.primitive.bind(*moved, **params)
    if not any(isinstance(delta, Moved) for delta in deltas):
        return [result]
    elsewhere = [b if is_float(b) else moved_value(d, b) for d, b in pairs]
    return [minus(apply(at.eqn, elsewhere)[0], at.outputs[0]) + result]


@rule("concatenate")
def concatenate(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Deltas side by side; of one that moves a channel survives, and zeros beside it are one."""
    dimension, sizes = at.params["dimension"], [b.shape[at.params["dimension"]] for b in at.bases]
    moving = [place for place, delta in enumerate(deltas) if not isinstance(delta, Zero)]
    if len(moving) != 1:
        parts = [dense(d, b) for d, b in zip(deltas, at.bases, strict=True)]
        return [lax.concatenate(parts, dimension)]
    (place,) = moving
    low, high = sum(sizes[:place]), sum(sizes[place + 1 :])
    delta = in_full(deltas[place], at.bases[place])
    if isinstance(delta, Channel) and delta.axis == dimension:
        return [Channel(delta.array, dimension, _shifted(delta.index, low))]
    around = [
        (low, high, 0) if axis == dimension else (0, 0, 0) for axis in range(at.bases[0].ndim)
    ]
    if isinstance(delta, Channel):
        del around[delta.axis]
        return [Channel(_padded(delta.array, around), delta.axis, delta.index)]
    return [_padded(dense(delta, at.bases[place]), around)]


def _padded(array: jax.Array, around: list[tuple[int, int, int]]) -> jax.Array:
    return lax.pad(array, jnp.zeros((), array.dtype), around)


@rule("fft", takes="channel", moving=(0,))
def fft(at: Application, delta: Channel) -> None:
    """Linear; a channel becomes dense."""


@rule("sort", moved=True, decides=True)
def sort(at: Application, deltas: list[Delta]) -> list[Delta]:
    """In the order of the moved values; every delta goes with its number."""
    operands = [moved_value(d, b) for d, b in zip(deltas, at.bases, strict=True)]
    floats = [number for number, base in enumerate(at.bases) if is_float(base)]
    beside = [at.bases[i] for i in floats] + [dense(deltas[i], at.bases[i]) for i in floats]
    found = at.eqn.primitive.bind(*operands, *beside, **at.params)
    first, second = len(operands), len(operands) + len(floats)
    results: list[Delta] = list(map(Moved, found[:first]))
    for i, base, step in zip(floats, found[first:second], found[second:], strict=True):
        results[i] = minus(base, at.outputs[i]) + step
    return results


@rule("top_k", decides=True)
def top_k(at: Application, deltas: list[Delta]) -> list[Delta]:
    """The largest of the moved values, each with its delta."""
    (base,), (delta,) = at.bases, deltas
    _, places = at.eqn.primitive.bind(moved_value(delta, base), **at.params)
    there = lambda array: jnp.take_along_axis(array, places, at.params.get("axis", base.ndim - 1))
    return [minus(there(base), at.outputs[0]) + there(dense(delta, base)), Moved(places)]


@rule("stack")
def stack(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Deltas side by side; the one that moves is a channel."""
    moving = [place for place, delta in enumerate(deltas) if not isinstance(delta, Zero)]
    if len(moving) == 1:
        (place,) = moving
        axis = at.params["axis"]
        return [Channel(dense(deltas[place], at.bases[place]), axis, jnp.int32(place))]
    parts = [dense(d, b) for d, b in zip(deltas, at.bases, strict=True)]
    return [at.eqn.primitive.bind(*parts, **at.params)]


@rule("split", "unstack")
def split(at: Application, deltas: list[Delta]) -> list[Delta]:
    """The pieces of the delta."""
    return list(at.eqn.primitive.bind(dense(deltas[0], at.bases[0]), **at.params))


@rule("select_n", takes="body", moved=True)
def select_n(
    at: Application, deltas: list[Delta], signs: Signs
) -> tuple[list[Delta], list[jax.Array]]:
    """The chosen case's delta; where the choice itself moves, new value minus old."""
    still = isinstance(deltas[0], Zero)
    at = with_stand_ins(at, "none", signs)
    stand_in = at.outputs[0]
    if not still and (has_stand_in(at) or any(map(signs.unbounded, at.eqn.inputs[1:]))):
        # Another case may be chosen, finite where this one is not.
        stand_in = jnp.where(jnp.isfinite(stand_in), stand_in, 0)
    at = widened(at._replace(outputs=[stand_in]))
    return [_unmoved_choice(at, deltas) if still else _moved_choice(at, deltas)], [stand_in]


def _unmoved_choice(at: Application, deltas: list[Delta]) -> Delta:
    which, cases = at.bases[0], deltas[1:]
    channel = common_channel(cases, at.bases[1:], at.outputs[0])
    if channel is None:
        return lax.select_n(which, *(dense(d, b) for d, b in zip(cases, at.bases[1:], strict=True)))
    arrays = [d.array if isinstance(d, Channel) else jnp.zeros_like(channel.array) for d in cases]
    if jnp.ndim(which):
        which = take(which, channel.axis, channel.index)
    return Channel(lax.select_n(which, *arrays), channel.axis, channel.index)


def _moved_choice(at: Application, deltas: list[Delta]) -> jax.Array:
    output = at.outputs[0]
    new = moved_value(deltas[0], at.bases[0])
    bases = at.bases[1:]
    arrays = [dense(d, b) for d, b in zip(deltas[1:], bases, strict=True)]
    same = jnp.broadcast_to(new == at.bases[0], output.shape) & jnp.isfinite(at.results[0])
    # Where the cases meet, so that they are nearly equal, nothing cancels.
    other = [minus(b, output) + d for d, b in zip(arrays, bases, strict=True)]
    return jnp.where(same, lax.select_n(at.bases[0], *arrays), lax.select_n(new, *other))
