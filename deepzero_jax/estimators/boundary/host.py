"""Slopes through a black box: moved, asked, subtracted and contracted on the host.

In the box's own precision: with answers in float64 nothing is rounded to float32 before it
is subtracted, and the step that each number really took divides.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from deepzero_jax.blackbox import BlackBox, BlackBoxError, HostCall, from_two_parts, widened
from deepzero_jax.callbacks import call_host
from deepzero_jax.estimators.boundary.coloured import Coloured, Colours, inverse
from deepzero_jax.estimators.boundary.copies import Base, Copies, Moved
from deepzero_jax.estimators.boundary.layout import Layout, Start
from deepzero_jax.estimators.boundary.moves import Moves
from deepzero_jax.estimators.boundary.students import Record, secants
from deepzero_jax.estimators.doubts import tell_flat
from deepzero_jax.estimators.host_difference import counted_share, differed, less
from deepzero_jax.estimators.host_use import tell_dropped

# Bytes that moved inputs and their answers may take on the host at a time.
_MEMORY = 2**27


@dataclass(frozen=True)
class HostSlopes:
    """What the callback of a backward pass calls on the host.

    Two that would do the same compare equal, so that JAX takes what it has compiled for one.

    Attributes:
      call: the query at the base.
      moves: which numbers, and which of them together.
      central: whether both sides are asked.
      floating: which outputs are floating-point: those have cotangents.
      check: whether the pattern of ``moves`` is checked, by two calls more.
      record: takes in the differences, or None.
    """

    call: HostCall
    moves: Moves
    central: bool
    floating: tuple[int, ...]
    check: bool = False
    record: Record | None = None

    @property
    def box(self) -> BlackBox:
        """Who answers."""
        return self.call.box

    @property
    def num_samples(self) -> int:
        """That one evaluation sends."""
        sides = 2 if self.central else 1
        return self.call.num_samples * (sides * self.moves.num_calls + 2 * self._checks)

    @property
    def _checks(self) -> bool:
        return self.check and self.moves.num_calls > 0

    @property
    def rounding(self) -> float:
        """Of the answers that are subtracted, as a part of them."""
        dtypes = [self.box.outputs.dtypes[i] for i in self.floating]
        of_parts = 2.0**-48 if self.call.splits else 0.0
        return max(of_parts, *(float(jnp.finfo(dtype).eps) for dtype in dtypes))

    def num_copies(self, operands: Sequence[ShapedArray], answer: ShapedArray) -> int:
        """For which its callback asks at once; those of cotangents alone share answers."""
        del answer
        return self._copies(operands, self._ndims(operands)).num_asked

    @property
    def layout(self) -> Layout:
        """Of the numbers that move."""
        return self.moves.layout

    def slopes(self, start: Start) -> tuple[jax.Array, jax.Array]:
        """[u, k], or [u, m] of coloured moves, and which of them are lost; one callback."""
        count = self.layout.size if isinstance(self.moves, Colours) else self.moves.num_calls
        shape = (self.layout.num_units, count)
        struct = jax.ShapeDtypeStruct
        return call_host(self, (struct(shape, self.layout.wide), struct(shape, bool)), start)

    def __call__(self, start: Start) -> list[np.ndarray]:
        """For any number of copies, whose axes ``vmap`` put in front."""
        copies, at = self._at(start)
        coloured = Coloured(self.moves, at) if isinstance(self.moves, Colours) else None
        found, dropped, is_flat = [], [], self.moves.is_whole and bool(at.cotangents.any())
        for calls in self._chunks(copies.num_asked):
            directions = np.asarray(self.moves.directions(at.drawn, calls, np))
            moved = self._moved(at, directions, self.central)
            if self.record is not None:
                base, rows = (at.leaves, at.answers), (moved.span, moved.difference)
                rows = secants(self.call, self.layout, self.floating, base, rows)
                self.record.add(rows, self.call.treedef)
            is_flat &= not moved.difference.any()
            if coloured is not None:
                coloured.add(moved, calls)
            else:
                products, lost = at.products(moved.difference)
                tell_dropped(lost.sum() * copies.num_shared)
                found.append(np.where(lost, 0.0, products * self._per_product(moved, at)[:, None]))
                dropped.append(np.broadcast_to(lost, products.shape))
        if is_flat:
            tell_flat(self.box, f"smoothing {at.steps.max():.3g}", self.central)
        if coloured is not None:
            found = [coloured.gradient]
            dropped = [np.broadcast_to(coloured.lost[:, None], coloured.gradient.shape)]
            tell_dropped(coloured.lost.sum() * copies.num_shared)
            if self._checks:
                signs = np.stack([coloured.signs, -coloured.signs])[None, None]
                coloured.compare(self._moved(at, signs, False).difference, self.rounding)
        whole = lambda parts: copies.in_front(np.concatenate(parts, axis=-1))
        return [whole(found).astype(self.layout.wide), whole(dropped)]

    def _at(self, start: Start) -> tuple[Copies, Base]:
        """Everything with its copies in front, in the precision of the box."""
        given, treedef = jax.tree.flatten(start)
        arrays = [np.asarray(array) for array in given]
        ndims = self._ndims(arrays)
        copies = self._copies(arrays, ndims)
        weighing = range(len(arrays))[self._cotangents]
        flat = [
            (copies.weighing if i in weighing else copies.asked)(array, ndim)
            for i, (array, ndim) in enumerate(zip(arrays, ndims, strict=True))
        ]
        leaves, steps, answers, cotangents, drawn = treedef.unflatten(flat)
        if self.call.box.outputs.is_double:
            leaves = [widened(leaf) for leaf in leaves]
        if self.call.splits:
            answers = from_two_parts(answers)
        vectors = [self._flat(answers[i], 1) for i in self.floating]
        weights = [self._flat(cotangent, 2) for cotangent in cotangents]
        return copies, Base(
            leaves,
            np.repeat(np.stack(steps, -1).astype(np.float64), self.layout.sizes, axis=-1),
            np.concatenate(vectors, axis=-1),
            np.concatenate(weights, axis=-1),
            drawn,
        )

    @property
    def _cotangents(self) -> slice:
        """Where cotangents stand among the arrays that the callback is given."""
        layout = self.layout
        before = len(layout.shapes) + len(layout.moving) + len(self.call.results())
        return slice(before, before + len(self.floating))

    def _ndims(self, arrays: Sequence[np.ndarray | ShapedArray]) -> list[int]:
        """Axes of each array without those that ``vmap`` adds."""
        answers = [len(shape) for shape in self.call.sample_shapes]
        kept = answers * (len(self.call.results()) // len(answers))
        ndims = [len(shape) for shape in self.layout.shapes] + [0] * len(self.layout.moving)
        ndims += kept + [answers[i] for i in self.floating]
        # What was drawn, if anything: coordinates [u, k], or directions [u, k, d].
        drawn = arrays[len(ndims) :]
        return ndims + [2 if jnp.issubdtype(one.dtype, jnp.integer) else 3 for one in drawn]

    def _copies(self, arrays: Sequence[np.ndarray | ShapedArray], ndims: Sequence[int]) -> Copies:
        fronts = [a.shape[: a.ndim - n] for a, n in zip(arrays, ndims, strict=True)]
        weighing = fronts[self._cotangents]
        asked = fronts[: self._cotangents.start] + fronts[self._cotangents.stop :]
        return Copies.of(asked, weighing)

    def _flat(self, output: np.ndarray, front: int) -> np.ndarray:
        """An output behind so many axes of copies as float64 [..., u, p]."""
        shape = (*output.shape[:front], self.layout.num_units, -1)
        return np.asarray(output, np.float64).reshape(shape)

    def _chunks(self, copies: int) -> Iterator[np.ndarray]:
        """Calls that go side by side, as many as memory holds."""
        outputs = sum(math.prod(shape) for shape in self.call.sample_shapes)
        inputs = sum(math.prod(shape) for shape in self.layout.shapes)
        size = max(1, _MEMORY // (16 * max(copies * (inputs + outputs), 1)))
        for start in range(0, self.moves.num_calls, size):
            yield np.arange(start, min(start + size, self.moves.num_calls))

    def _moved(self, at: Base, directions: np.ndarray, central: bool) -> Moved:
        """Answers and inputs after moves less those at the base, or at the moves back."""
        offsets = directions * at.steps[:, None, None]
        # Units are samples of a call: [c, u, k, m] → [c, k, u, m].
        shape = (len(at.leaves[0]), self.layout.num_units, *offsets.shape[-2:])
        offsets = np.swapaxes(np.broadcast_to(offsets, shape), 1, 2)
        base = self._base_vectors(at)
        ahead, above = self._placed(at, offsets)
        behind, below = self._placed(at, -offsets) if central else (None, base)
        asked, span = (2 if central else 1) * offsets, less(above, below, np.isinf(above))
        self._check_steps(at, base, asked, span)
        upper = self._answers(ahead)
        lower = at.answers[:, None] if behind is None else self._answers(behind)
        difference = differed(upper, lower, self.call.splits and behind is None)
        return Moved(*(np.swapaxes(array, 1, 2) for array in (asked, span, difference)))

    def _check_steps(self, at: Base, base: np.ndarray, asked: np.ndarray, span: np.ndarray) -> None:
        """Raises BlackBoxError where rounding leaves nothing of a step: all are [c, k, u, m]."""
        if self.moves.furthest is not None:  # the same whatever is drawn
            asked = (self.moves.furthest * at.steps)[:, None, None]
            asked = np.broadcast_to(asked, (*base.shape[:1], 1, *base.shape[2:]))
            furthest = self._placed(at, asked)[1]
            span = less(furthest, base, np.isinf(furthest))
        stuck = (span == 0) & (asked != 0) & ~np.isinf(base)
        if stuck.any():
            c, _, u, m = np.argwhere(stuck)[0]
            dtype = np.result_type(*(at.leaves[i].dtype for i in self.layout.moving))
            raise BlackBoxError(
                f"smoothing {at.steps[c, m]:.3g} does not move an input of {base[c, 0, u, m]:.3g} "
                f"in {dtype}: give a larger smoothing, scale the input, or declare float64 "
                'answers (dtype="float64"), which are asked for in float64'
            )

    def _base_vectors(self, at: Base) -> np.ndarray:
        moving = [at.leaves[i][:, None] for i in self.layout.moving]
        return np.asarray(self.layout.join(moving, np), np.float64)

    def _placed(self, at: Base, offsets: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Inputs after offsets [c, k, u, m], and where the numbers went, as the offsets."""
        moved = [leaf[:, None] for leaf in at.leaves]
        parts = self.layout.split(offsets)
        for position, part in zip(self.layout.moving, parts, strict=True):
            moved[position] = moved[position] + part.astype(moved[position].dtype)
        went = self.layout.join([moved[i] for i in self.layout.moving], np)
        return moved, np.asarray(went, np.float64)

    def _answers(self, inputs: list[np.ndarray]) -> np.ndarray:
        """To inputs [c, k, …]: [c, k, u, p]."""
        answers = self.call.in_full(*inputs)
        front = (*inputs[self.layout.moving[0]].shape[:2], self.layout.num_units, -1)
        flat = [np.asarray(answers[i], np.float64).reshape(front) for i in self.floating]
        return np.concatenate(flat, axis=-1)

    def _per_product(self, moved: Moved, at: Base) -> np.ndarray:
        """What products of differences are multiplied by, see ``Moves.divisor``: [c, u, k]."""
        if self.moves.divisor == "moved":
            return inverse(moved.span.sum(axis=-1))  # of one number: the others did not move
        # Of a draw so near to 0 rounding may have left nothing.
        share = counted_share([moved.asked], [moved.span], 3)
        sides = 2.0 if self.central else 1.0
        step = at.steps[:, :1, None] if self.moves.divisor == "step" else 1.0
        return share / (sides * step)
