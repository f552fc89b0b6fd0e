"""Products: Δ(x·w) = x·Δw + Δx·(w + Δw), with channels read and written one at a time.

Or (x + Δx)·Δw + Δx·w, which is as exact: where a single weight moves, every coordinate then
multiplies by the same w.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.platforms import (
    convolve_channel,
    narrow_result,
    shifts_one_channel,
)
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import (
    Channel,
    Delta,
    Point,
    Zero,
    channel_of_point,
    dense,
    in_full,
    take,
)

# (at, number of the operand that moves, its delta, the other operand) -> delta of the product
Side = Callable[[Application, int, Delta, jax.Array], Delta]


def _multiply(at: Application, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """The primitive on other operands; in ``delta_dtype`` if one is set, float32 accumulated."""
    params = dict(at.params)
    out_dtype = at.outputs[0].dtype
    if at.delta_dtype is not None and out_dtype == jnp.float32:
        lhs, rhs = lhs.astype(at.delta_dtype), rhs.astype(at.delta_dtype)
        params["preferred_element_type"] = narrow_result(at.eqn.primitive.name, at.delta_dtype)
        params["precision"] = lax.Precision.DEFAULT
    return at.eqn.primitive.bind(lhs, rhs, **params).astype(out_dtype)


def _expand(channel: Channel) -> jax.Array:
    return lax.expand_dims(channel.array, (channel.axis,))


def _one(value: jax.Array, axis: int, index: jax.Array) -> jax.Array:
    return lax.expand_dims(take(value, axis, index), (axis,))


def _bilinear(at: Application, deltas: list[Delta], one_sided: Side) -> list[Delta]:
    """Splits into a part for each operand; a channel survives if the other part is zero."""
    (lhs, rhs), (d_lhs, d_rhs) = at.bases, deltas
    if isinstance(d_lhs, Zero):
        return [one_sided(at, 1, d_rhs, lhs)]
    if isinstance(d_rhs, Zero):
        return [one_sided(at, 0, d_lhs, rhs)]
    d_lhs, d_rhs = in_full(d_lhs, lhs), in_full(d_rhs, rhs)
    if isinstance(d_rhs, Point):
        lhs = lhs + dense(d_lhs, lhs)
    else:
        rhs = rhs + dense(d_rhs, rhs)
    output = at.outputs[0]
    first = dense(one_sided(at, 1, d_rhs, lhs), output)
    return [first + dense(one_sided(at, 0, d_lhs, rhs), output)]


@rule("dot_general", points=True)
def dot_general(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ(a b) = a Δb + Δa (b + Δb)."""
    return _bilinear(at, deltas, _dot_side)


def _dot_side(at: Application, side: int, delta: Delta, other: jax.Array) -> Delta:
    own = at.bases[side]
    contract, batch = at.params["dimension_numbers"]
    free = [a for a in range(own.ndim) if a not in contract[side] and a not in batch[side]]
    if isinstance(delta, Point):
        if own.ndim == 2 and len(free) == 1 and not batch[side]:
            # One scalar of a matrix meets one row of the other operand.
            row = take(other, contract[1 - side][0], delta.indices[contract[side][0]])
            axis = other.ndim - 1 if side == 1 else 0
            moved = (row * delta.value).astype(at.outputs[0].dtype)
            return Channel(moved, axis, delta.indices[free[0]])
        delta = channel_of_point(delta, own.shape, (free or list(range(own.ndim)))[-1])
    if isinstance(delta, Channel) and delta.axis in contract[side]:
        delta = in_full(delta, own)
    if not isinstance(delta, Channel):
        pair = (other, dense(delta, own)) if side == 1 else (dense(delta, own), other)
        return _multiply(at, *pair)
    mine = _expand(delta)
    for kind in (contract, batch):
        if delta.axis in kind[side]:
            position = list(kind[side]).index(delta.axis)
            other = _one(other, kind[1 - side][position], delta.index)
    result = _multiply(at, *((other, mine) if side == 1 else (mine, other)))
    if delta.axis in contract[side]:
        return result
    if delta.axis in batch[side]:
        axis = list(batch[side]).index(delta.axis)
    else:
        num_lhs_free = at.bases[0].ndim - len(contract[0]) - len(batch[0])
        axis = len(batch[0]) + free.index(delta.axis) + (num_lhs_free if side == 1 else 0)
    return Channel(lax.squeeze(result, (axis,)), axis, delta.index)


@rule("conv_general_dilated", points=True)
def convolution(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ(x ∗ w) = x ∗ Δw + Δx ∗ (w + Δw)."""
    return _bilinear(at, deltas, _convolution_side)


def _convolution_side(at: Application, side: int, delta: Delta, other: jax.Array) -> Delta:
    own = at.bases[side]
    params = at.params
    plain = params["feature_group_count"] == 1 and params["batch_group_count"] == 1
    spec = params["dimension_numbers"]
    if side == 1:
        if isinstance(delta, Point):
            if plain and _can_shift(at):
                return _shifted_channel(at, delta, other)
            delta = channel_of_point(delta, own.shape, spec.rhs_spec[0])
        if isinstance(delta, Channel) and plain and delta.axis == spec.rhs_spec[0]:
            result = _multiply(at, other, _expand(delta))
            return Channel(lax.squeeze(result, (spec.out_spec[1],)), spec.out_spec[1], delta.index)
        return _multiply(at, other, dense(delta, own))
    if isinstance(delta, Channel) and delta.axis == spec.lhs_spec[1]:
        if plain and delta.stays is None:
            if _sums_shifts(at):
                return _sum_of_shifts(at, delta, other)
            kernel = _one(other, spec.rhs_spec[1], delta.index)
            return _multiply(at, _expand(delta), kernel)
        depthwise = params["feature_group_count"] == own.shape[delta.axis] and (
            other.shape[spec.rhs_spec[0]] == own.shape[delta.axis]
        )
        if depthwise and params["batch_group_count"] == 1:
            kernel = _one(other, spec.rhs_spec[0], delta.index)
            one = at._replace(eqn=at.eqn._replace(params={**params, "feature_group_count": 1}))
            result = _multiply(one, _expand(delta), kernel)
            return Channel(lax.squeeze(result, (spec.out_spec[1],)), spec.out_spec[1], delta.index)
    ungrouped = params["batch_group_count"] == 1
    if isinstance(delta, Channel) and delta.axis == spec.lhs_spec[0] and ungrouped:
        result = _multiply(at, _expand(delta), other)
        return Channel(lax.squeeze(result, (spec.out_spec[0],)), spec.out_spec[0], delta.index)
    return _multiply(at, dense(delta, own), other)


def _sums_shifts(at: Application) -> bool:
    spec, num_taps = at.params["dimension_numbers"], at.bases[1].size
    num_taps //= at.bases[1].shape[spec.rhs_spec[0]] * at.bases[1].shape[spec.rhs_spec[1]]
    channels_last = spec.lhs_spec == (0, 3, 1, 2) and spec.out_spec == (0, 3, 1, 2)
    return shifts_one_channel() and channels_last and num_taps <= 25 and _can_shift(at)


def _sum_of_shifts(at: Application, delta: Channel, kernel: jax.Array) -> jax.Array:
    spec, params = at.params["dimension_numbers"], at.params
    inputs_first = lax.transpose(kernel, [spec.rhs_spec[a] for a in (1, 2, 3, 0)])
    num_inputs, *shape = inputs_first.shape
    # Selected by a product: a slice would be fused into, and repeated in, the inner loop.
    chosen = (jnp.arange(num_inputs) == delta.index).astype(kernel.dtype)
    rows = inputs_first.reshape(num_inputs, -1)
    taps = lax.dot(chosen, rows, precision=lax.Precision.HIGHEST).reshape(shape)
    image = delta.array
    if at.delta_dtype is not None:
        taps, image = (v.astype(at.delta_dtype).astype(v.dtype) for v in (taps, image))
    return convolve_channel(
        image, taps, params["window_strides"], params["padding"], params["rhs_dilation"]
    )


def _can_shift(at: Application) -> bool:
    no_dilation = all(size == 1 for size in at.params["lhs_dilation"])
    return no_dilation and all(lo >= 0 and hi >= 0 for lo, hi in at.params["padding"])


def _shifted_channel(at: Application, point: Point, image: jax.Array) -> Channel:
    """One coordinate of a kernel adds a shifted copy of an input channel to an output channel."""
    spec, params = at.params["dimension_numbers"], at.params
    batch_axis, feature_axis, *spatial = spec.lhs_spec
    # Channel to the front, then batch and space as the output has them, padded once for all.
    out_order = sorted(range(len(spec.out_spec)), key=lambda a: spec.out_spec[a])
    kinds = [kind for kind in out_order if kind != 1]
    order = [feature_axis, *(spec.lhs_spec[kind] for kind in kinds)]
    planar = lax.transpose(image, order)
    pads = {spatial[k]: (*params["padding"][k], 0) for k in range(len(spatial))}
    planar = lax.pad(planar, jnp.zeros((), image.dtype), [pads.get(a, (0, 0, 0)) for a in order])
    starts, sizes, strides = [point.indices[spec.rhs_spec[1]]], [1], [1]
    for kind in kinds:
        if kind == 0:
            starts.append(jnp.int32(0))
            sizes.append(image.shape[batch_axis])
            strides.append(1)
            continue
        k = kind - 2
        stride = params["window_strides"][k]
        offset = point.indices[spec.rhs_spec[2 + k]] * params["rhs_dilation"][k]
        starts.append(offset)
        sizes.append((at.outputs[0].shape[spec.out_spec[kind]] - 1) * stride + 1)
        strides.append(stride)
    window = lax.dynamic_slice(planar, starts, sizes, allow_negative_indices=False)
    window = lax.slice(window, [0] * window.ndim, window.shape, strides)
    shifted = lax.squeeze(window, (0,)) * point.value
    return Channel(
        shifted.astype(at.outputs[0].dtype), spec.out_spec[1], point.indices[spec.rhs_spec[0]]
    )
