"""Steps that rounding changes: moved inputs lie where their type has a number.

Where rounding to nearest has changed all steps by one factor, it divides, and nothing is lost.
Otherwise a difference is that along another way. Of random directions the way is rounded at
random, such that it is the one asked for in the mean over all of them, number by number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from deepzero_jax.difference.precision import rounded_as, wide_dtype
from deepzero_jax.types import Array

# Sums of squares above this are those that float32 holds to full precision.
_SQUARES = 1e-20
# Steps that are changed by one factor up to this part of each are changed by one.
_SAME = 1e-5


# Of the direction along which differences are propagated, see ``in_the_mean``.
_seed: ContextVar[Array | None] = ContextVar("seed", default=None)


@contextmanager
def steps_rounded_by(seed: Array | None) -> Iterator[None]:
    """What is traced within belongs to a random direction with this seed, or to none."""
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def seed_of_steps() -> Array | None:
    """The seed that ``steps_rounded_by`` has set."""
    return _seed.get()


class Rounded(NamedTuple):
    """Moved arrays, and how far they went.

    Attributes:
      bases: arrays before the step.
      steps: like them, of their type or a wider one.
      ahead: arrays after a step.
      behind: after the step back, if both sides are evaluated.
      asked: how far numbers were to go between the two points that are subtracted.
      went: how far they did.
    """

    bases: Sequence[Array]
    steps: Sequence[Array]
    ahead: Sequence[Array]
    behind: Sequence[Array] | None
    asked: Sequence[Array]
    went: Sequence[Array]


def nearest(
    bases: Sequence[Array], steps: Sequence[Array], central: bool = False, on_host: bool = False
) -> Rounded:
    """Arrays moved by steps, rounded to nearest; what is infinite is not asked to move.

    Args:
      bases: arrays before the step.
      steps: like them, of their type or a wider one.
      central: whether a step back is taken, too.
      on_host: by NumPy.
    """
    pairs = list(zip(bases, steps, strict=True))
    ahead = [_moved(base, step) for base, step in pairs]
    behind = [_moved(base, -step) for base, step in pairs] if central else None
    return _between(bases, steps, ahead, behind, on_host)


def is_swallowed(base: Array, step: Array) -> Array:
    """Where a step, in the type of the base, leaves a number as it is."""
    return _moved(base, step) == base


def _moved(base: Array, step: Array) -> Array:
    """A base after a step, in its own type."""
    step = step.astype(base.dtype)
    if isinstance(base, np.ndarray) or wide_dtype(base.dtype) == base.dtype:
        return base + step
    moved = jnp.asarray(_wide(base) + _wide(step))
    return rounded_as(moved, base.dtype).astype(base.dtype)


def _between(
    bases: Sequence[Array],
    steps: Sequence[Array],
    ahead: Sequence[Array],
    behind: Sequence[Array] | None,
    on_host: bool,
) -> Rounded:
    xp: Any = np if on_host else jnp
    asked, went = [], []
    for base, step, above, below in zip(bases, steps, ahead, behind or bases, strict=True):
        # An array of infinite numbers has no difference.
        stays = xp.isinf(base)
        start = xp.where(stays, 0, below)
        asked.append(xp.where(stays, 0, _wide(step) if behind is None else 2 * _wide(step)))
        went.append(_wide(xp.where(stays, 0, above)) - _wide(start))
    return Rounded(bases, steps, ahead, behind, asked, went)


def in_the_mean(
    found: Rounded, seed: Array | None, front: int = 0, on_host: bool = False
) -> tuple[Rounded, Array]:
    """Steps as they are gone, and the factor of their differences.

    Steps that rounding to nearest has changed by one factor are gone so. Of other random
    directions each number goes to one of the two beside where it was to go, with the odds that
    make the mean what was asked for, at any size of the step; the factor is then 1.

    Args:
      found: steps rounded to ``nearest``.
      seed: uint32 of each step, an axis for each in front; None where no direction was drawn.
      front: axes in front that count steps.
      on_host: by NumPy.

    Source: stochastic rounding (Croci et al. 2022, doi 10.1098/rsos.211631).
    """
    xp: Any = np if on_host else jnp
    share = along_the_step(found.asked, found.went, front, on_host)
    if seed is None:
        return found, share
    same = xp.ones(np.shape(share), bool)
    for a, w in zip(found.asked, found.went, strict=True):
        off = xp.abs(_behind_axes(share, a) * w - a)
        same &= xp.all(off <= _SAME * xp.abs(a), axis=tuple(range(front, a.ndim)))
    if on_host and same.all():
        return found, share
    drawn = _uniform(seed, [a.shape[front:] for a in found.asked], xp)

    def side(near: Sequence[Array], sign: int) -> list[Array]:
        quadruples = zip(found.bases, found.steps, near, drawn, strict=True)
        return [
            xp.where(_behind_axes(same, n), n, _either(base, sign * step, n, u, xp))
            for base, step, n, u in quadruples
        ]

    behind = None if found.behind is None else side(found.behind, -1)
    gone = _between(found.bases, found.steps, side(found.ahead, 1), behind, on_host)
    return gone, xp.where(same, share, 1)


def _either(base: Array, step: Array, near: Array, drawn: Array, xp: Any) -> Array:
    """``near``, or the number on the other side of where the step leads, by what is drawn."""
    x, a, n = _wide(base), _wide(step), _wide(near)
    # What rounding cut off, exactly: Knuth's sum of two numbers.
    back = n - x
    left = (x - (n - back)) + (a - back)
    towards = xp.where(left > 0, xp.inf, -xp.inf).astype(near.dtype)
    other = xp.nextafter(near, xp.broadcast_to(towards, near.shape))
    goes_on = drawn * xp.abs(_wide(other) - n) < xp.abs(left)
    return xp.where(goes_on & xp.isfinite(near), other, near)


def _uniform(seed: Array, shapes: Sequence[tuple[int, ...]], xp: Any) -> list[Array]:
    """Numbers in [0, 1), the same by NumPy and JAX: a hash of the seed and of their places."""
    drawn, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape, dtype=int))
        places = _mixed(xp.arange(start, start + size, dtype=np.uint32))
        bits = _mixed(places ^ xp.asarray(seed)[..., None])
        uniform = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
        drawn.append(uniform.reshape((*np.shape(seed), *shape)))
        start += size
    return drawn


def _mixed(bits: Array) -> Array:
    """The last rounds of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return bits ^ (bits >> np.uint32(16))


def _wide(array: Array) -> Array:
    return array.astype(wide_dtype(array.dtype))


def _behind_axes(front: Array, like: Array) -> Array:
    """Numbers of the axes in front, for arrays with more of them behind."""
    return front.reshape((*front.shape, *[1] * (like.ndim - front.ndim)))


def along_the_step(
    asked: Sequence[Array], went: Sequence[Array], front: int = 0, on_host: bool = False
) -> Array:
    """What turns a difference along the way that was gone into one along the step asked for.

    Exactly, where rounding has changed all steps by one factor, as where one number moves.
    Otherwise with an error of about the mean 0 over ways to round: that of least squares would
    be too small. A number that has not moved counts as not asked to.

    Args:
      asked: the steps, arrays of the leaves that move.
      went: moved less unmoved values, like ``asked``.
      front: axes in front that count steps; each step runs over the others.
      on_host: by NumPy.

    Returns:
      One factor for each step, of the axes in front; NaN where rounding left nothing of it.
    """
    xp: Any = np if on_host else jnp
    moved = [xp.where(w == 0, 0, a) for a, w in zip(asked, went, strict=True)]
    along, length, moves = (_sums_on_host if on_host else _sums)(asked, moved, went, front)
    share = length / xp.where(along > 0, along, 1)
    return xp.where((along > 0) | (moves == 0), xp.where(along > 0, share, 1), xp.nan)


def _sums(
    asked: Sequence[Array], moved: Sequence[Array], went: Sequence[Array], front: int
) -> Sequence[Array]:
    """Moved · went, moved · moved and max |asked| of each step, up to a factor of each."""
    over = lambda array: tuple(range(front, array.ndim))
    longest = jnp.zeros(())
    for a in asked:
        longest = jnp.maximum(longest, jnp.max(jnp.abs(a), axis=over(a), initial=0))
    # Squares of short steps would be below what float32 holds.
    unit = jnp.where(longest > 0, longest, 1)
    scaled = lambda a: a / _behind_axes(unit, a)
    pairs = [(scaled(m), scaled(w)) for m, w in zip(moved, went, strict=True)]
    along = sum(jnp.sum(m * w, over(m)) for m, w in pairs)
    return jnp.asarray(along), jnp.asarray(sum(jnp.sum(m * m, over(m)) for m, _ in pairs)), longest


def _sums_on_host(
    asked: Sequence[Array], moved: Sequence[Array], went: Sequence[Array], front: int
) -> Sequence[Array]:
    """Moved · went, moved · moved and asked · asked of each step."""

    def dots(xs: Sequence[Array], ys: Sequence[Array], dtype: Any) -> np.ndarray:
        flat = lambda a: np.asarray(a).reshape((*a.shape[:front], -1))
        return sum(
            (
                np.einsum("...i,...i->...", flat(x), flat(y), dtype=dtype, casting="unsafe")
                for x, y in zip(xs, ys, strict=True)
            ),
            np.zeros(()),
        )

    along, length = dots(moved, went, None), dots(moved, moved, None)
    if np.min(length, initial=np.inf) > _SQUARES:
        return along, length, length
    pairs = (moved, went), (moved, moved), (asked, asked)
    return [dots(*pair, np.float64) for pair in pairs]
