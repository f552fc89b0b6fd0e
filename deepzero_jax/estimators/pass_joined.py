"""Propagated passes of several leaves in one loop: each goes its own way until they meet.

Written out leaf by leaf, the end of a network stands in the program as often as the network
has leaves. Here it stands once: a pass enters the tree of ``difference.meetings`` at its leaf
and follows it to the loss. Where a chunk enters is decided by branches, of which only the
chosen one runs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.difference.interpreter import Passing
from deepzero_jax.difference.meetings import Arrays, State, courses, junctions, packed, unpacked
from deepzero_jax.difference.program import Hoisted, read
from deepzero_jax.difference.values import Delta, Point, dense
from deepzero_jax.estimators.base_pass import Course
from deepzero_jax.estimators.pass_difference import unravel
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.types import Array

# ``(number of the leaf, flat indices [chunk], sign of the steps) -> [chunk]``: differences.
ChunkDelta = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# Where a stretch ends: in front of a junction, or with the loss.
_Stop = State | None
_SIGN = jax.ShapeDtypeStruct((), jnp.float32)
_NUMBER = jax.ShapeDtypeStruct((), jnp.int32)


class _Stretch(NamedTuple):
    """Equations that a pass goes through, from its leaf or from a junction.

    Attributes:
      origin: position of the leaf, or the junction.
      stop: where it ends.
      places: of the equations.
    """

    origin: int | State
    stop: _Stop
    places: tuple[int, ...]


class JoinedPasses:
    """The ways of leaves' passes through one program.

    Args:
      course: the program, at its base.
      leaves: of the parameters.
      steps: of the leaves.
      indices: of their coordinates; those of a leaf that is not perturbed are empty.
    """

    def __init__(
        self,
        course: Course,
        leaves: Sequence[jax.Array],
        steps: Sequence[Step],
        indices: Sequence[Array],
    ) -> None:
        active = [position for position, part in enumerate(indices) if part.shape[0]]
        self._course, self._leaves, self._steps = course, leaves, steps
        self._passing = Passing(course.program, course.values, course.delta_dtype)
        self._hoisted: dict[tuple[_Stretch, int], Hoisted] = {}

        def starts(index: jax.Array) -> list[dict[int, Delta]]:
            return [self._start(position, index, jnp.float32(1)) for position in active]

        paths = courses(course.program, self._passing, starts)
        self._paths = dict(zip(active, paths, strict=True))

    def _start(self, position: int, index: jax.Array, sign: jax.Array) -> dict[int, Delta]:
        leaf, number = self._leaves[position], self._course.program.inputs[position]
        moved = jnp.asarray(self._steps[position], leaf.dtype) * sign.astype(leaf.dtype)
        return {number: Point(moved, unravel(index, leaf.shape)) if leaf.shape else moved}

    def ways(self, positions: Sequence[int]) -> dict[int, list[_Stretch]]:
        """The way of each of some leaves to the loss, cut where it meets that of another."""
        paths = [self._paths[position] for position in positions]
        found = {}
        for position, path, met in zip(
            positions, paths, junctions(self._course.program, paths), strict=True
        ):
            origins, stops = [position, *met], [*met, None]
            begins, ends = [0, *met.values()], [*met.values(), len(path)]
            found[position] = [
                _Stretch(origin, stop, tuple(step.place for step in path[begin:end]))
                for origin, stop, begin, end in zip(origins, stops, begins, ends, strict=True)
            ]
        return found

    def live_bytes(self, way: Sequence[_Stretch]) -> int:
        """Bytes that one pass keeps alive on its way, at its worst moment."""
        return max(
            self.stretch(part, 1).live_bytes(with_inputs=not isinstance(part.origin, int))
            for part in way
        )

    def stretch(self, part: _Stretch, chunk: int) -> Hoisted:
        """A stretch for chunks of a size, all that is the same for every coordinate done now."""
        if (part, chunk) not in self._hoisted:
            origin = part.origin
            if isinstance(origin, int):
                args = [_indices(chunk), _SIGN]
                run: Callable[..., Arrays] = lambda index, sign: self._gone(
                    part, self._start(origin, index, sign)
                )
                axes: tuple[int | None, ...] = (0, None)
            else:
                args = _arrays_of(origin, chunk)
                run = lambda *arrays: self._gone(part, unpacked(origin, arrays))
                axes = (0,) * len(args)
            side_by_side = jax.vmap(run, axes) if chunk > 1 else run
            self._hoisted[part, chunk] = Hoisted(side_by_side, *args)
        return self._hoisted[part, chunk]

    def _gone(self, part: _Stretch, moving: dict[int, Delta]) -> Arrays:
        passing = self._passing.through(moving, places=part.places)
        if part.stop is not None:
            return packed(passing.moving)[1]
        (output,) = self._course.program.outputs
        return [dense(passing.result(output), jnp.asarray(read(self._course.values, output)))]

    def chunk_delta(self, positions: Sequence[int], chunk: int) -> ChunkDelta:
        """Differences for chunks of any of some leaves, whose numbers are their places here."""
        incoming = _incoming(self.ways(positions))
        built: dict[_Stop, Callable[..., Arrays]] = {}
        for stop in _from_the_leaves_on(incoming):
            branches = [self._branch(stretch, chunk, built) for stretch in incoming[stop]]
            run = partial(_chosen, _numbers(incoming, stop, positions), branches)
            # Traced here and now: nested, as many junctions would be as many calls deep.
            built[stop] = Hoisted(run, _NUMBER, _indices(chunk), _SIGN)

        def delta(number: jax.Array, indices: jax.Array, sign: jax.Array) -> jax.Array:
            (found,) = built[None](number, indices if chunk > 1 else indices[0], sign)
            return found.reshape(chunk)

        return delta

    def _branch(
        self, part: _Stretch, chunk: int, built: dict[_Stop, Callable[..., Arrays]]
    ) -> Callable[[jax.Array, jax.Array, jax.Array], Arrays]:
        run = self.stretch(part, chunk)
        if isinstance(part.origin, int):
            return lambda number, indices, sign: run(indices, sign)
        before = built[part.origin]
        return lambda number, indices, sign: run(*before(number, indices, sign))


def _chosen(
    numbers: np.ndarray,
    branches: Sequence[Callable[..., Arrays]],
    number: jax.Array,
    indices: jax.Array,
    sign: jax.Array,
) -> Arrays:
    if len(branches) == 1:
        return branches[0](number, indices, sign)
    return lax.switch(jnp.asarray(numbers)[number], branches, number, indices, sign)


def _indices(chunk: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((chunk,) if chunk > 1 else (), jnp.int32)


def _arrays_of(state: State, chunk: int) -> list[jax.ShapeDtypeStruct]:
    num_indices = max((max(c.indices) + 1 for c in state if c.indices), default=0)
    before = (chunk,) if chunk > 1 else ()
    arrays = [jax.ShapeDtypeStruct((*before, *c.shape), c.dtype) for c in state]
    return arrays + [_indices(chunk)] * num_indices


def _incoming(ways: dict[int, list[_Stretch]]) -> dict[_Stop, list[_Stretch]]:
    """The stretches that end at each junction; those of several leaves from one are one."""
    found: dict[_Stop, list[_Stretch]] = {}
    for way in ways.values():
        for part in way:
            parts = found.setdefault(part.stop, [])
            if part.origin not in [known.origin for known in parts]:
                parts.append(part)
    return found


def _from_the_leaves_on(incoming: dict[_Stop, list[_Stretch]]) -> list[_Stop]:
    """The junctions, each after those from which it is reached."""
    order: list[_Stop] = []
    waiting: list[_Stop] = [None]
    while waiting:
        stop = waiting.pop()
        order.append(stop)
        waiting += [p.origin for p in incoming[stop] if not isinstance(p.origin, int)]
    return order[::-1]


def _numbers(
    incoming: dict[_Stop, list[_Stretch]], stop: _Stop, positions: Sequence[int]
) -> np.ndarray:
    """By which of the stretches to a junction each leaf comes; 0 for one that does not."""
    found = np.zeros(len(positions), np.int32)
    for number, part in enumerate(incoming[stop]):
        waiting: list[int | State] = [part.origin]
        while waiting:
            origin = waiting.pop()
            if isinstance(origin, int):
                found[list(positions).index(origin)] = number
            else:
                waiting += [p.origin for p in incoming[origin]]
    return found
