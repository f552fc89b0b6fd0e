"""Where passes of deltas that start in several places become alike, and go on as one.

A coordinate of a kernel, of its bias, of the norm's scale behind it: a few operations later
each of them is one moved channel of the same value, and a layer later one dense difference.
From there on their passes are the same program. What a pass still carries is its ``State``;
passes in equal states have equal futures, so the states of all passes form a tree that ends
in the loss. It is read off the traced program; names of layers play no part.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.difference.interpreter import Passing
from deepzero_jax.difference.program import Program
from deepzero_jax.difference.values import Channel, Delta, Moved, Point, Zero

# Where the work is. What lies between two of these is fused by the compiler, so states are
# joined in front of one of them: what it reads has to be written out anyway.
_HEAVY = {"conv_general_dilated", "dot_general", "while", "scan", "cond", "sort"}
# Of a loss of light equations alone each pass would be a program of its own up to the end: states
# are joined once in so many of them, which is more than lie between two layers of a network.
_MOST_LIGHT = 48


class Carried(NamedTuple):
    """What is known while tracing of one delta that a pass carries.

    Attributes:
      number: the variable that moves.
      form: of its delta.
      shape: of the delta's array.
      dtype: likewise.
      axis: of a channel, otherwise -1.
      indices: which of the state's indices are those of the channel or point.
    """

    number: int
    form: Literal["dense", "channel", "point", "moved"]
    shape: tuple[int, ...]
    dtype: np.dtype
    axis: int = -1
    indices: tuple[int, ...] = ()


# All that a pass carries, in the order of the variables.
State = tuple[Carried, ...]
Arrays = list[jax.Array]


def packed(moving: dict[int, Delta]) -> tuple[State, Arrays]:
    """Deltas as a state and its arrays: those of the deltas, then the indices."""
    arrays: Arrays = []
    indices: Arrays = []
    state = []

    def index_number(index: jax.Array) -> int:
        for number, known in enumerate(indices):
            if known is index:
                return number
        indices.append(index)
        return len(indices) - 1

    for number, delta in sorted(moving.items()):
        if isinstance(delta, Channel):
            array, form, axis, where = delta.array, "channel", delta.axis, (delta.index,)
        elif isinstance(delta, Point):
            array, form, axis, where = delta.value, "point", -1, delta.indices
        elif isinstance(delta, Moved):
            array, form, axis, where = delta.value, "moved", -1, ()
        elif isinstance(delta, Zero):
            continue
        else:
            array, form, axis, where = delta, "dense", -1, ()
        # A weak type would make two states differ, or a branch from its neighbour.
        array = lax.convert_element_type(array, array.dtype)
        found = tuple(index_number(index) for index in where)
        state.append(Carried(number, form, array.shape, array.dtype, axis, found))
        arrays.append(array)
    return tuple(state), arrays + indices


def unpacked(state: State, arrays: Sequence[jax.Array]) -> dict[int, Delta]:
    """The deltas that a state and its arrays stand for."""
    indices = arrays[len(state) :]
    moving: dict[int, Delta] = {}
    for carried, array in zip(state, arrays, strict=False):
        where = tuple(indices[number] for number in carried.indices)
        if carried.form == "channel":
            moving[carried.number] = Channel(array, carried.axis, where[0])
        elif carried.form == "point":
            moving[carried.number] = Point(array, where)
        else:
            moving[carried.number] = Moved(array) if carried.form == "moved" else array
    return moving


class Step(NamedTuple):
    """An equation that a pass goes through, and what it carries behind it.

    Attributes:
      place: of the equation.
      state: None where passes may not be joined.
    """

    place: int
    state: State | None


def courses(
    program: Program,
    passing: Passing,
    starts: Callable[[jax.Array], Sequence[dict[int, Delta]]],
) -> list[list[Step]]:
    """The steps of passes to the end of a program; nothing is run.

    A pass is followed until it meets one that was followed before.

    Args:
      program: flat equations, with one output.
      passing: any pass of it.
      starts: ``(int32 scalar) -> deltas by variable number``, one set for each pass.
    """
    readers = _readers(program)
    owners: dict[State, tuple[int, int]] = {}
    found: list[list[Step]] = []

    def follow(index: jax.Array) -> jax.Array:
        for start in starts(index):
            own = passing.anew(start)
            steps: list[Step] = []
            for place in _ahead(own, readers):
                own.advance(place)
                state = None if _has_stand_ins(own) else packed(own.moving)[0]
                steps.append(Step(place, state))
                if state in owners:
                    owner, number = owners[state]
                    steps += found[owner][number + 1 :]
                    break
            for number, step in enumerate(steps):
                if step.state:
                    owners.setdefault(step.state, (len(found), number))
            found.append(steps)
        return index

    jax.eval_shape(follow, jax.ShapeDtypeStruct((), jnp.int32))
    return found


def _has_stand_ins(passing: Passing) -> bool:
    return any(number in passing.stand_ins for number in passing.moving)


def _readers(program: Program) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, eqn in enumerate(program.equations):
        for item in eqn.inputs:
            if isinstance(item, int):
                found.setdefault(item, []).append(place)
    return found


def _ahead(passing: Passing, readers: dict[int, list[int]]) -> Iterable[int]:
    """Places of the equations that read what moves, as it moves."""
    place = -1
    while True:
        places = [p for number in passing.moving for p in readers.get(number, ()) if p > place]
        if not places:
            return
        place = min(places)
        yield place


def junctions(program: Program, paths: Sequence[list[Step]]) -> list[dict[State, int]]:
    """Where each pass joins others: the states, each with how many steps lead to it.

    Args:
      program: the passes are of it.
      paths: their steps, from ``courses``.

    Returns:
      For each pass, in order; a state at which nobody joins is left out. A state is shared
      by all passes from which it is reached, and its future is the same.
    """
    sections = _sections(program)
    places = [_joinable(program, sections, path) for path in paths]
    counts: dict[State, int] = {}
    for path in places:
        for state in path:
            counts[state] = counts.get(state, 0) + 1
    found = []
    for path in places:
        last, kept = 1, {}
        for state, length in path.items():
            if counts[state] > last:
                last = counts[state]
                kept[state] = length
        found.append(kept)
    return found


def _joinable(program: Program, sections: Sequence[int], path: list[Step]) -> dict[State, int]:
    """The states of a pass at which it may be joined, as which steps lead to them."""
    return {
        step.state: number + 1
        for number, (step, after) in enumerate(itertools.pairwise(path))
        if step.state
        and (_is_heavy(program, after.place) or sections[step.place] < sections[after.place])
    }


def _is_heavy(program: Program, place: int) -> bool:
    return program.equations[place].primitive.name in _HEAVY


def _sections(program: Program) -> list[int]:
    """Which section each equation is in: one ends after so many light ones in a row."""
    found, section, light = [], 0, 0
    for place in range(len(program.equations)):
        light = 0 if _is_heavy(program, place) else light + 1
        section += light > 0 and light % _MOST_LIGHT == 0
        found.append(section)
    return found
