"""The rule of a black box in the difference engine: moved and subtracted on the host.

A difference sends the base, what moves it, and the answers at the base. A box with float64
answers is asked in float64, so that nothing is rounded before it is subtracted (where JAX has
no float64, its answers come in two float32 parts). Any other is asked in the type of its
inputs, which rounds the step: the difference of each sample is brought back from the step
that was taken to the one asked for, or a random direction is rounded so that none is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import jax
import numpy as np
from jax.core import ShapedArray

from deepzero_jax.blackbox import BlackBox, HostCall, from_two_parts, host_call
from deepzero_jax.blackbox.call import ByCall, cut_off, held, widened
from deepzero_jax.blackbox.told import is_told, tell_once
from deepzero_jax.callbacks import call_host
from deepzero_jax.difference import ZERO, Delta, dense
from deepzero_jax.difference.application import Application
from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import Moved, is_float
from deepzero_jax.estimators.callback_difference import difference_of_callback
from deepzero_jax.estimators.padding import OnlyAsked, where_asked
from deepzero_jax.estimators.rounding import (
    Rounded,
    in_the_mean,
    nearest,
    seed_of_steps,
)
from deepzero_jax.types import Array


@dataclass(frozen=True)
class _OfMoved(ByCall):
    """What a callback calls on the host where its operands move; its call is that at the base.

    It is given operands, then what moves them, then the results at the base.

    Attributes:
      moving: numbers of the operands that move: of floating-point ones the difference is given,
        of others the new value.
      dtypes: of the results: of differences, and of what has none and is given anew.
    """

    moving: tuple[int, ...]
    dtypes: tuple[np.dtype, ...]

    def parts(
        self, arrays: Sequence[np.ndarray], num_operands: int
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Operands, moves and results."""
        host, stop = list(map(np.asarray, arrays)), num_operands + len(self.moving)
        return host[:num_operands], host[num_operands:stop], host[stop:]


@dataclass(frozen=True)
class _HostDifference(_OfMoved):
    """What the callback of a perturbed query calls.

    Where answers come in two parts, differences do.

    Attributes:
      is_random: whether the seed of a random direction comes behind all else.
    """

    is_random: bool = False

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        seed = arrays[-1] if self.is_random else None
        given = arrays[:-1] if self.is_random else arrays
        inputs, moves, bases = self.parts(given, len(self.call.ndims))
        rounding: dict[int, np.ndarray] = {}
        for number, move in zip(self.moving, moves, strict=True):
            base = inputs[number]
            if not is_float(base):
                inputs[number] = move
            elif self.call.box.outputs.is_double:
                inputs[number] = widened(base) + move
            else:
                rounding[number] = move
        leading = arrays[0].ndim - self.call.ndims[0]
        share = self._move(inputs, rounding, seed, leading) if rounding else np.ones(())
        answers = self.call.in_full(*inputs)
        bases = from_two_parts(bases) if self.call.splits else bases
        differences = [
            _difference(new, base, share, self.call.splits) if is_float(new) else new
            for new, base in zip(answers, bases, strict=True)
        ]
        rounded = list(map(_rounded, differences, self.dtypes))
        return rounded + list(map(cut_off, differences, rounded)) if self.call.splits else rounded

    def _move(
        self,
        inputs: list[np.ndarray],
        moves: Mapping[int, np.ndarray],
        seed: np.ndarray | None,
        leading: int,
    ) -> np.ndarray:
        """Moves inputs in their own type.

        Returns:
          What brings the difference of each sample back to the step asked for; where rounding
          left nothing of it, the difference is 0 and counts as such.
        """
        front = leading + (self.call.count is not None)
        bases = [_in_reals(inputs[number]) for number in moves]
        steps = [_in_reals(move) for move in moves.values()]
        found = nearest(bases, steps, on_host=True)
        if not is_told(self.box, "stuck"):
            # The first axis that vmap put in front counts coordinates, or directions.
            by_query = lambda of: of.reshape((of.shape[0] if leading else 1, -1)).sum(axis=1)
            stuck, moving = _swallowed(found, front), _any(found.asked, front)
            self._tell(by_query(stuck), by_query(moving))
        if seed is not None:  # the same for all samples, however devices share them
            seed = seed.reshape((*seed.shape, *[1] * (front - seed.ndim)))
        found, share = in_the_mean(found, seed, front, on_host=True)
        for number, moved in zip(moves, found.ahead, strict=True):
            inputs[number] = _as_before(np.asarray(moved), inputs[number].dtype)
        return counted(share, found.went, front)

    @property
    def _stuck(self) -> str:
        """What becomes of a number that its step does not move."""
        by_chance = "it moves by chance, which adds to the spread of all slopes"
        return by_chance if self.is_random else "it counts as not moved"

    def _tell(self, stuck: np.ndarray, moving: np.ndarray) -> None:
        """Warns once where most steps of a query are swallowed: samples, by query."""
        most = stuck > moving / 2
        if not most.any():
            return
        worst = int(np.argmax(np.where(most, stuck, 0)))
        tell_once(
            self.box,
            "stuck",
            "the steps of an estimate do not move the inputs of a black box, in float32 "
            f"({stuck[worst]:,} of the {moving[worst]:,} samples of a query, in one number at "
            f"least): {self._stuck}; give a larger smoothing, scale the inputs, or declare "
            'float64 answers (dtype="float64"), which are asked for in float64',
        )


@dataclass(frozen=True)
class _MovedCall(_OfMoved):
    """What else asks a box in float64, slopes through it say, where its operands move.

    Answers and inputs come moved in float64, as they were when the box was asked for them:
    rounded apart they would not belong together, and a smaller step divides what is left.

    Attributes:
      flat: the call, for arrays in the order of its operands.
      num_operands: of it.
    """

    flat: Callable[..., Sequence[np.ndarray]]
    num_operands: int

    def num_copies(self, operands: Sequence[ShapedArray], answer: ShapedArray) -> int:
        """As of the call, for operands that have moved."""
        moved = list(operands[: self.num_operands])
        for number, move in zip(self.moving, operands[self.num_operands :], strict=False):
            shape = np.broadcast_shapes(moved[number].shape, move.shape)
            moved[number] = ShapedArray(shape, moved[number].dtype)
        return self.call.num_copies(moved, answer)

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        operands, moves, bases = self.parts(arrays, self.num_operands)
        for number, move in zip(self.moving, moves, strict=True):
            base = operands[number]
            operands[number] = widened(base) + move if is_float(base) else move
        return [
            (np.asarray(new, np.float64) - base).astype(dtype) if is_float(new) else new
            for new, base, dtype in zip(self.flat(*operands), bases, self.dtypes, strict=True)
        ]


def _rounded(difference: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A difference, or an answer that has none, in the type in which JAX holds it."""
    if not is_float(difference):
        return held(difference, dtype)
    with np.errstate(over="ignore"):
        return difference.astype(dtype)


def _in_reals(array: np.ndarray) -> np.ndarray:
    """Complex numbers as two real ones each, on an axis behind."""
    return np.stack([np.real(array), np.imag(array)], -1) if np.iscomplexobj(array) else array


def _as_before(reals: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Undoes ``_in_reals``."""
    is_complex = np.issubdtype(dtype, np.complexfloating)
    return np.ascontiguousarray(reals).view(dtype)[..., 0] if is_complex else reals


def counted(share: Array, went: Sequence[Array], front: int) -> np.ndarray:
    """A factor of ``in_the_mean``, 0 where rounding left nothing of a step."""
    share = np.asarray(share)
    # Where it is NaN a step was swallowed, unless the inputs are no numbers.
    stuck = np.isnan(share)
    if stuck.any():
        stuck &= ~_any(went, front)
    return np.where(stuck, 0.0, share)


def _swallowed(steps: Rounded, front: int) -> np.ndarray:
    """Whether a number stayed that was to move half as far as any, for each of the steps."""
    sizes = [np.abs(a) for a in steps.asked]
    over = lambda array: tuple(range(front, array.ndim))
    most = reduce(np.maximum, [np.max(size, axis=over(size), initial=0) for size in sizes])
    found = []
    for size, step in zip(sizes, steps.went, strict=True):
        half = most.reshape((*most.shape, *[1] * (size.ndim - front))) / 2
        found.append((size > 0) & (size >= half) & (step == 0))
    return _any(found, front)


def _any(arrays: Sequence[Array], front: int) -> np.ndarray:
    """Whether a number is not 0, for each of the steps that the axes in front count."""
    found = [np.any(a, axis=tuple(range(front, a.ndim))) for a in arrays]
    return reduce(np.logical_or, found)


def differed(new: np.ndarray, base: np.ndarray, splits: bool) -> np.ndarray:
    """Answers less those at the base, float64; ``splits``: which have come in two parts.

    Then an answer that is the same up to what the two parts keep is the same.
    """
    new, base = np.asarray(new, np.float64), np.asarray(base, np.float64)
    if not splits:
        return new - base
    with np.errstate(over="ignore", invalid="ignore"):
        high = new.astype(np.float32)
        (rounded,) = from_two_parts([high, cut_off(new, high)])
        return np.where(rounded == base, 0.0, new - base)


def _difference(new: np.ndarray, base: np.ndarray, share: np.ndarray, splits: bool) -> np.ndarray:
    difference = differed(new, base, splits)
    # Axes of vmap and of samples stand in front of those of an answer.
    return difference * share.reshape((*share.shape, *[1] * (difference.ndim - share.ndim)))


@rule("pure_callback", "io_callback", moved=True, decides=True)
def _difference_on_the_host(at: Application, deltas: Sequence[Delta]) -> list[Delta]:
    call = host_call(at.params)
    box, is_query = getattr(call, "box", None), isinstance(call, HostCall)
    if not (is_query or (isinstance(box, BlackBox) and box.outputs.is_double)):
        return difference_of_callback(at, deltas)
    moving = tuple(i for i, delta in enumerate(deltas) if delta is not ZERO)
    dtypes = tuple(wide_dtype(o.dtype) for o in at.outputs)
    moves = [
        delta.value if isinstance(delta, Moved) else dense(delta, at.bases[i])
        for i, delta in ((i, deltas[i]) for i in moving)
    ]
    seed = seed_of_steps()
    is_random = isinstance(call, HostCall) and not call.box.outputs.is_double and seed is not None
    if is_query:
        asks = _HostDifference(call, moving, dtypes, is_random)
    else:
        asks = _MovedCall(call, moving, dtypes, at.params["callback"], len(at.bases))
    operands = [*at.bases, *moves, *at.outputs, *([seed] if is_random else [])]
    shapes = [jax.ShapeDtypeStruct(o.shape, d) for o, d in zip(at.outputs, dtypes, strict=True)]
    asked = where_asked()
    if is_query and asked is not None:
        found = call_host(OnlyAsked(asks, tuple(shapes)), shapes, *operands, asked)
    else:
        found = call_host(asks, shapes, *operands)
    return [f if is_float(f) else Moved(f) for f in found]
