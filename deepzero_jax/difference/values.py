"""How a value may differ from its base: not at all, in one scalar, in one channel, anywhere.

A delta is one of
  ``ZERO``     the value is its base;
  ``Point``    one scalar differs;
  ``Channel``  one index of one axis differs;
  an array     the dense difference, of the base's shape;
  ``Moved``    a boolean or integer value, which has no difference: the new value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.precision import wide, wide_dtype
from deepzero_jax.varying import vary, varying


class Zero:
    """The delta of a value that equals its base."""

    def __repr__(self) -> str:
        """The name of the only instance."""
        return "ZERO"


ZERO = Zero()


@dataclass(frozen=True)
class Channel:
    """A delta that is zero but at one index of one axis.

    Attributes:
      array: the delta there, of the base's shape without ``axis``.
      axis: which axis, not negative.
      index: int32 scalar. Two channels are known to be the same one only if their
        indices are the same object.
      stays: the base value, if something stands in for it, see ``application``: outside of the
        channel the value stays infinite, which seen from the stand-in is no zero.
    """

    array: jax.Array
    axis: int
    index: jax.Array
    stays: jax.Array | None = None


class Point(NamedTuple):
    """A delta that is zero but at one scalar.

    Attributes:
      value: the delta there, a scalar.
      indices: int32 scalars, one for each axis of the base.
    """

    value: jax.Array
    indices: tuple[jax.Array, ...]


class Moved(NamedTuple):
    """The new value of a boolean or integer.

    Attributes:
      value: of the base's shape and dtype.
    """

    value: jax.Array


Delta = Zero | Channel | Point | Moved | jax.Array


def is_float(value: jax.typing.ArrayLike) -> bool:
    """Whether a value has differences: real or complex floating point."""
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def take(value: jax.Array, axis: int, index: jax.Array) -> jax.Array:
    """One index of one axis, that axis dropped.

    The axis is brought to the front first: that transpose does not depend on the index,
    so it is done once for all coordinates, and what is read per coordinate is contiguous.
    """
    if value.shape[axis] == 1:
        return lax.squeeze(value, (axis,))
    if value.ndim > 1 and axis != 0:
        order = (axis, *(a for a in range(value.ndim) if a != axis))
        value = lax.transpose(value, order)
    # An index of a channel is never negative, which need not be looked at for each of them.
    return lax.dynamic_index_in_dim(value, index, 0, keepdims=False, allow_negative_indices=False)


def minus(value: jax.Array, y: jax.Array) -> jax.Array:
    """How far a value is from another, zero where both are the same infinity."""
    return jnp.where(value == y, 0, value - y)


def channel_of_point(point: Point, shape: tuple[int, ...], axis: int) -> Channel:
    """The same delta as a channel along ``axis``."""
    rest = [size for a, size in enumerate(shape) if a != axis]
    where = [i for a, i in enumerate(point.indices) if a != axis]
    array = jnp.zeros(rest, point.value.dtype)
    if rest:
        update = point.value.reshape((1,) * len(rest))
        array = lax.dynamic_update_slice(array, update, where)
    else:
        array = point.value
    return Channel(array, axis, point.indices[axis])


def dense(delta: Delta, base: jax.Array) -> jax.Array:
    """A delta of a floating-point value as an array of the base's shape.

    It is of the base's type; float32 for one of float16 or bfloat16.
    """
    if isinstance(delta, Zero):
        zeros = jnp.zeros(jnp.shape(base), wide_dtype(jnp.result_type(base)))
        return vary(zeros, varying(base))
    if isinstance(delta, Point):
        if not delta.indices:
            return delta.value
        delta = channel_of_point(delta, base.shape, base.ndim - 1)
    if isinstance(delta, Channel):
        expanded = lax.expand_dims(delta.array, (delta.axis,))
        if base.shape[delta.axis] == 1:
            return jnp.broadcast_to(expanded, base.shape)
        # A comparison, not an update in place: it can be fused into what reads it.
        here = lax.broadcasted_iota(jnp.int32, base.shape, delta.axis) == delta.index
        if delta.stays is None:
            return jnp.where(here, expanded, jnp.zeros((), expanded.dtype))
        return jnp.where(here, expanded, minus(wide(delta.stays), base).astype(expanded.dtype))
    if isinstance(delta, Moved):
        raise TypeError("a boolean or integer value has no difference")
    return delta


def moved_value(delta: Delta, base: jax.Array) -> jax.Array:
    """The perturbed value itself, base + delta, for a base that is not of a coarse type."""
    if isinstance(delta, Zero):
        return base
    if isinstance(delta, Moved):
        return delta.value
    return base + dense(delta, base).astype(base.dtype)


def dense_or_none(deltas: Sequence[Delta], bases: Sequence[jax.Array]) -> list[jax.Array | None]:
    """Deltas as arrays, None where they are zero."""
    return [
        None if isinstance(d, Zero) else dense(d, b) for d, b in zip(deltas, bases, strict=True)
    ]


def as_channel(delta: Delta, base: jax.Array) -> Delta:
    """A point as a channel along the last axis; other deltas as they are."""
    if isinstance(delta, Point) and delta.indices:
        return channel_of_point(delta, base.shape, base.ndim - 1)
    return delta


def in_full(delta: Delta, base: jax.Array) -> Delta:
    """A channel beside infinities as an array; other deltas as they are.

    For what reads no more than the channel, and does not leave a channel.
    """
    beside = isinstance(delta, Channel) and delta.stays is not None
    return dense(delta, base) if beside else delta


def common_channel(
    deltas: Sequence[Delta], bases: Sequence[jax.Array], output: jax.Array
) -> Channel | None:
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
