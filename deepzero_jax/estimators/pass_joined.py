"""Propagated passes of several leaves in one loop: each goes its own way until they meet.

Written out leaf by leaf, the end of a network stands in the program as often as the network
has leaves. Here it stands once: a pass enters the tree of ``difference.meetings`` at its leaf
and follows it to the loss. Where a chunk enters is decided by branches, of which only the
chosen one runs. In a deep network branches do not nest all the way: at some junctions what the
pass carries is written out, see ``Tree.landings``.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.coordinates import is_valid
from deepzero_jax.cost import size_bytes
from deepzero_jax.difference.interpreter import Passing
from deepzero_jax.difference.meetings import Arrays, State, courses, junctions, packed, unpacked
from deepzero_jax.difference.program import Hoisted, read
from deepzero_jax.difference.values import Delta, Point, dense
from deepzero_jax.estimators.base_pass import Course
from deepzero_jax.estimators.padding import asked_where
from deepzero_jax.estimators.pass_difference import unravel
from deepzero_jax.estimators.pass_tree import Stop, Stretch, Tree
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.types import Array

# ``(number of the leaf, flat indices [chunk], sign of the steps) -> [chunk]``: differences.
ChunkDelta = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
_SIGN = jax.ShapeDtypeStruct((), jnp.float32)
_NUMBER = jax.ShapeDtypeStruct((), jnp.int32)


class JoinedPasses:
    """The ways of leaves' passes through one program.

    Args:
      course: the program, at its base.
      leaves: of the parameters.
      steps: of the leaves.
      indices: of their coordinates; those of a leaf that is not perturbed are empty.
      told: whether what is asked of the host is left out where an index is padding.
    """

    def __init__(
        self,
        course: Course,
        leaves: Sequence[jax.Array],
        steps: Sequence[Step],
        indices: Sequence[Array],
        told: bool = False,
    ) -> None:
        self._course, self._leaves, self._steps = course, leaves, steps
        self.told = told
        self._counts = [part.shape[0] for part in indices]
        self._passing = Passing(course.program, course.values, course.delta_dtype)
        self._hoisted: dict[tuple[Stretch, int], Hoisted] = {}
        active = [position for position, count in enumerate(self._counts) if count]

        def starts(index: jax.Array) -> list[dict[int, Delta]]:
            return [self._start(position, index, jnp.float32(1)) for position in active]

        paths = courses(course.program, self._passing, starts)
        self._paths = dict(zip(active, paths, strict=True))

    def _start(self, position: int, index: jax.Array, sign: jax.Array) -> dict[int, Delta]:
        leaf, number = self._leaves[position], self._course.program.inputs[position]
        moved = jnp.asarray(self._steps[position], leaf.dtype) * sign.astype(leaf.dtype)
        return {number: Point(moved, unravel(index, leaf.shape)) if leaf.shape else moved}

    def ways(self, positions: Sequence[int]) -> dict[int, list[Stretch]]:
        """The way of each of some leaves to the loss, cut where it meets that of another."""
        paths = [self._paths[position] for position in positions]
        found = {}
        for position, path, met in zip(
            positions, paths, junctions(self._course.program, paths), strict=True
        ):
            origins, stops = [position, *met], [*met, None]
            begins, ends = [0, *met.values()], [*met.values(), len(path)]
            found[position] = [
                Stretch(origin, stop, tuple(step.place for step in path[begin:end]))
                for origin, stop, begin, end in zip(origins, stops, begins, ends, strict=True)
            ]
        return found

    def live_bytes(self, way: Sequence[Stretch]) -> int:
        """Bytes that one pass keeps alive on its way, at its worst moment."""
        return max(
            self.stretch(part, 1).live_bytes(with_inputs=not isinstance(part.origin, int))
            for part in way
        )

    def stretch(self, part: Stretch, chunk: int) -> Hoisted:
        """A stretch for chunks of a size, all that is the same for every coordinate done now.

        Its first argument says which coordinates are none, where the host is told.
        """
        if (part, chunk) not in self._hoisted:
            origin = part.origin
            valid = [jax.ShapeDtypeStruct(_indices(chunk).shape, bool)] if self.told else []
            if isinstance(origin, int):
                args = [_indices(chunk), _SIGN]
                start: Callable[..., dict[int, Delta]] = partial(self._start, origin)
                axes: list[int | None] = [0, None]
            else:
                args = _arrays_of(origin, chunk)
                start = lambda *arrays: unpacked(origin, arrays)
                axes = [0] * len(args)

            def run(*given: jax.Array) -> Arrays:
                with asked_where(given[0] if valid else None):
                    return self._gone(part, start(*given[len(valid) :]))

            side_by_side = jax.vmap(run, [*([0] * len(valid)), *axes]) if chunk > 1 else run
            self._hoisted[part, chunk] = Hoisted(side_by_side, *valid, *args)
        return self._hoisted[part, chunk]

    def _gone(self, part: Stretch, moving: dict[int, Delta]) -> Arrays:
        passing = self._passing.through(moving, places=part.places)
        if part.stop is not None:
            return packed(passing.moving)[1]
        (output,) = self._course.program.outputs
        return [dense(passing.result(output), jnp.asarray(read(self._course.values, output)))]

    def chunk_delta(self, positions: Sequence[int], chunk: int) -> ChunkDelta:
        """Differences for chunks of any of some leaves, whose numbers are their places here."""
        ways = self.ways(positions)
        tree = Tree(ways)
        written = [sum(self.stretch(p, chunk).bytes_written() for p in w) for w in ways.values()]
        size_of = lambda state: sum(map(size_bytes, _arrays_of(state, chunk)))
        landings = tree.landings([self._counts[p] for p in ways], written, size_of)
        built: dict[Stop, Callable[..., Arrays]] = {}
        sizes = jnp.array([self._leaves[position].size for position in ways], jnp.int32)
        valid = lambda number, indices: [is_valid(sizes[number], indices)] if self.told else []
        for stop in tree.stops:
            landed = [_arrays_of(landing, chunk) for landing in landings if landing in built]
            branches = [
                self._branch(part, chunk, built, landings[: len(landed)], valid)
                for part in tree.incoming[stop]
            ]
            run = partial(_chosen, np.maximum(tree.branches(stop), 0), branches)
            # Traced here and now: nested, as many junctions would be as many calls deep.
            hoisted = Hoisted(run, _NUMBER, _indices(chunk), _SIGN, landed)
            built[stop] = partial(_reaching, hoisted, len(landed))

        def delta(number: jax.Array, indices: jax.Array, sign: jax.Array) -> jax.Array:
            given = number, indices if chunk > 1 else indices[0], sign
            landed: list[Arrays] = []
            for landing in landings:
                comes = jnp.asarray(tree.branches(landing) >= 0)[number]
                zeros = _arrays_of(landing, chunk)
                landed.append(_landing(comes, built[landing], zeros, *given, landed))
            (found,) = built[None](*given, landed)
            return found.reshape(chunk)

        return delta

    def _branch(
        self,
        part: Stretch,
        chunk: int,
        built: dict[Stop, Callable[..., Arrays]],
        landings: Sequence[State],
        valid: Callable[[jax.Array, jax.Array], Sequence[Array]],
    ) -> Callable[..., Arrays]:
        """``(number, indices, sign, arrays at each of the landings so far) -> arrays``."""
        stretch, origin = self.stretch(part, chunk), part.origin
        if isinstance(origin, int):
            arrives = lambda number, indices, sign, landed: (indices, sign)
        elif origin in landings:
            place = landings.index(origin)
            arrives = lambda number, indices, sign, landed: landed[place]
        else:
            arrives = built[origin]

        def run(
            number: jax.Array, indices: jax.Array, sign: jax.Array, landed: Sequence[Arrays]
        ) -> Arrays:
            arrays = arrives(number, indices, sign, landed)
            return stretch(*valid(number, indices), *arrays)

        return run


def _chosen(
    numbers: np.ndarray,
    branches: Sequence[Callable[..., Arrays]],
    number: jax.Array,
    indices: jax.Array,
    sign: jax.Array,
    landed: Sequence[Arrays],
) -> Arrays:
    ways = [partial(branch, landed=landed) for branch in branches]
    if len(ways) == 1:
        return ways[0](number, indices, sign)
    return lax.switch(jnp.asarray(numbers)[number], ways, number, indices, sign)


def _reaching(
    run: Hoisted,
    num_landed: int,
    number: jax.Array,
    indices: jax.Array,
    sign: jax.Array,
    landed: Sequence[Arrays],
) -> Arrays:
    """What arrives at a stop, built when passes had landed so often; since then they may more."""
    return run(number, indices, sign, landed[:num_landed])


def _landing(
    comes: jax.Array,
    run: Callable[..., Arrays],
    zeros: Sequence[jax.ShapeDtypeStruct],
    number: jax.Array,
    indices: jax.Array,
    sign: jax.Array,
    landed: Sequence[Arrays],
) -> Arrays:
    go = lambda number, indices, sign: run(number, indices, sign, landed)
    away = lambda *_: [jnp.zeros(array.shape, array.dtype) for array in zeros]
    return lax.cond(comes, go, away, number, indices, sign)


def _indices(chunk: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((chunk,) if chunk > 1 else (), jnp.int32)


def _arrays_of(state: State, chunk: int) -> list[jax.ShapeDtypeStruct]:
    num_indices = max((max(c.indices) + 1 for c in state if c.indices), default=0)
    before = (chunk,) if chunk > 1 else ()
    arrays = [jax.ShapeDtypeStruct((*before, *c.shape), c.dtype) for c in state]
    return arrays + [_indices(chunk)] * num_indices
