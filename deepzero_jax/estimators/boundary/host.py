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
from deepzero_jax.estimators.host_difference import counted, differed
from deepzero_jax.estimators.host_use import tell_dropped
from deepzero_jax.estimators.rounding import Rounded, in_the_mean, nearest
from deepzero_jax.types import Array

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
            seeds = self.moves.seeds(at.drawn, calls, np)
            moved = self._moved(at, directions, self.central, seeds)
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
        # What was drawn, if anything: coordinates [u, k], or directions [u, k, d] and seeds [u, k].
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

    def _moved(
        self, at: Base, directions: np.ndarray, central: bool, seeds: Array | None = None
    ) -> Moved:
        """Answers and inputs after moves less those at the base, or at the moves back."""
        offsets = directions * at.steps[:, None, None]
        # Units are samples of a call: [c, u, k, m] → [c, k, u, m].
        shape = (len(at.leaves[0]), self.layout.num_units, *offsets.shape[-2:])
        offsets = np.swapaxes(np.broadcast_to(offsets, shape), 1, 2)
        starts, parts = self._vectors(at), self._parts(offsets)
        found = nearest(starts, parts, central, on_host=True)
        self._check_steps(at, starts, found)
        share: Array = np.ones((*offsets.shape[:3],))
        if self.moves.divisor != "moved":  # where one number moves, its way divides
            seeds = None if seeds is None else np.swapaxes(seeds, 1, 2)
            found, share = in_the_mean(found, seeds, 3, on_host=True)
            share = counted(share, found.went, 3)
        upper = self._answers(self._placed(at, found.ahead))
        behind = found.behind
        lower = at.answers[:, None] if behind is None else self._answers(self._placed(at, behind))
        difference = differed(upper, lower, self.call.splits and behind is None)
        whole = _joined(found.asked), _joined(found.went), difference, share
        return Moved(*(np.swapaxes(array, 1, 2) for array in whole))

    def _check_steps(self, at: Base, starts: Sequence[np.ndarray], found: Rounded) -> None:
        """Raises BlackBoxError where rounding leaves nothing of a step."""
        if self.moves.furthest is not None:  # the same whatever is drawn
            offsets = (self.moves.furthest * at.steps)[:, None, None]
            found = nearest(starts, self._parts(offsets), on_host=True)
        stuck = (_joined(found.went) == 0) & (_joined(found.asked) != 0)
        if stuck.any():
            c, _, u, m = np.argwhere(stuck)[0]
            base = _joined(starts)
            dtype = np.result_type(*(at.leaves[i].dtype for i in self.layout.moving))
            raise BlackBoxError(
                f"smoothing {at.steps[c, m]:.3g} does not move an input of {base[c, 0, u, m]:.3g} "
                f"in {dtype}: give a larger smoothing, scale the input, or declare float64 "
                'answers (dtype="float64"), which are asked for in float64'
            )

    def _vectors(self, at: Base) -> list[np.ndarray]:
        """The numbers of each leaf that move, [c, 1, u, m], in its own type."""
        front = (len(at.leaves[0]), 1, self.layout.num_units)
        pairs = zip(self.layout.moving, self.layout.sizes, strict=True)
        return [at.leaves[i].reshape((*front, size)) for i, size in pairs]

    def _parts(self, offsets: np.ndarray) -> list[np.ndarray]:
        """Of each leaf, as ``_vectors``."""
        return np.split(offsets, np.cumsum(self.layout.sizes)[:-1], axis=-1)

    def _placed(self, at: Base, vectors: Sequence[Array]) -> list[np.ndarray]:
        """Inputs with the numbers that move at other places [c, k, u, m]."""
        moved = [leaf[:, None] for leaf in at.leaves]
        for position, vector in zip(self.layout.moving, vectors, strict=True):
            shape = (*vector.shape[:2], *self.layout.shapes[position])
            moved[position] = np.asarray(vector).reshape(shape)
        return moved

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
        sides = 2.0 if self.central else 1.0
        step = at.steps[:, :1, None] if self.moves.divisor == "step" else 1.0
        return moved.share / (sides * step)


def _joined(vectors: Sequence[Array]) -> np.ndarray:
    """Numbers of leaves [..., m] as those of a unit."""
    return np.concatenate([np.asarray(vector, np.float64) for vector in vectors], axis=-1)
