"""Programs within an equation, run at their base values with their deltas beside."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.typing import DTypeLike

from deepzero_jax.difference.application import Application, evaluate_and_subtract
from deepzero_jax.difference.base_values import base_values
from deepzero_jax.difference.edges import zero_where_infinite
from deepzero_jax.difference.interpreter import propagate_beside
from deepzero_jax.difference.precision import wide
from deepzero_jax.difference.program import Constant, Program, Values, read
from deepzero_jax.difference.values import (
    ZERO,
    Delta,
    Moved,
    Zero,
    dense,
    is_float,
    moved_value,
)
from deepzero_jax.jaxprs import calls_host
from deepzero_jax.varying import vary, varying, varying_axes

# One for each of some values, None for zero or for no stand-in.
Arrays = Sequence[jax.Array | None]
Pair = tuple[Arrays, Arrays]
Results = tuple[list[Delta], list[jax.Array]]


class Beside(NamedTuple):
    """Values, and what goes beside each.

    Attributes:
      values: base values.
      stand_ins: of them, None where there is none.
      moves: of floating-point values the delta, of others the new value, None where still.
    """

    values: list[jax.Array]
    stand_ins: Arrays
    moves: Arrays

    @classmethod
    def of(cls, at: Application, deltas: Sequence[Delta]) -> "Beside":
        """The operands of an equation."""
        pairs = zip(at.bases, at.values, strict=True)
        stand_ins = [None if base is value else base for base, value in pairs]
        return cls(at.values, stand_ins, moves_of(deltas, at.bases))

    @property
    def bases(self) -> list[jax.Array]:
        """What stands in for the values, or the values."""
        return in_full(self.stand_ins, self.values)

    @property
    def deltas(self) -> list[Delta]:
        """The moves as the engine knows them."""
        return deltas_of(self.moves, self.values)

    def then(self, other: "Beside") -> "Beside":
        """These values, and others after them."""
        return Beside(
            [*self.values, *other.values],
            [*self.stand_ins, *other.stand_ins],
            [*self.moves, *other.moves],
        )

    def part(self, start: int, stop: int | None) -> "Beside":
        """Some of the values in order."""
        return Beside(self.values[start:stop], self.stand_ins[start:stop], self.moves[start:stop])

    def carried(self, moving: Sequence[bool], with_stand_ins: bool) -> "Beside":
        """As a carry, of which every floating-point part may move, and may have a stand-in.

        Of the others ``moving`` ones may move.
        """
        still = [
            dense(ZERO, value) if is_float(value) else value if may else None
            for value, may in zip(self.values, moving, strict=True)
        ]
        moves = [old if new is None else new for old, new in zip(still, self.moves, strict=True)]
        stand_ins = [
            value if other is None and with_stand_ins and is_float(value) else other
            for value, other in zip(self.values, self.stand_ins, strict=True)
        ]
        return Beside(self.values, stand_ins, moves)

    def varying(self, axes: Sequence[frozenset[str]]) -> "Beside":
        """With moves and stand-ins marked as varying over axes of a mesh, value by value."""
        mark = lambda array, own: None if array is None else vary(array, own)
        moves, others = (list(map(mark, part, axes)) for part in (self.moves, self.stand_ins))
        return Beside(self.values, others, moves)

    @property
    def axes(self) -> list[frozenset[str]]:
        """Axes of a mesh over which the move or the stand-in of each value varies."""
        return list(map(varying_axes, zip(self.moves, self.stand_ins, strict=True)))

    def moved(self) -> list[jax.Array]:
        """The values after the move, in the type of their deltas."""
        return list(map(moved_value, self.deltas, map(wide, self.bases)))


def moves_of(deltas: Sequence[Delta], values: Sequence[jax.Array]) -> Arrays:
    """Deltas as arrays, those of integers and booleans as new values; None where zero."""
    return [
        None if isinstance(d, Zero) else d.value if isinstance(d, Moved) else dense(d, value)
        for d, value in zip(deltas, values, strict=True)
    ]


def deltas_of(moves: Arrays, values: Sequence[jax.Array]) -> list[Delta]:
    """The reverse of ``moves_of``."""
    return [
        ZERO if move is None else move if is_float(value) else Moved(move)
        for move, value in zip(moves, values, strict=True)
    ]


def run_beside(
    program: Program,
    inputs: Sequence[Beside],
    delta_dtype: DTypeLike | None,
    known: Values | None = None,
    unbounded: bool = False,
) -> Beside:
    """The outputs of a program.

    ``known`` are its base values, as far as they have been evaluated before; ``unbounded`` as of
    the equation that it stands in.
    """
    found = base_values(program, [v for group in inputs for v in group.values], known)
    stand_ins = [other for group in inputs for other in group.stand_ins]
    pairs = zip(program.inputs, stand_ins, strict=True)
    deltas, others = propagate_beside(
        program,
        found,
        [delta for group in inputs for delta in group.deltas],
        {number: other for number, other in pairs if other is not None},
        delta_dtype,
        unbounded,
    )
    outputs = [read(found, item) for item in program.outputs]
    found_others = [None if isinstance(o, Constant) else others.get(o) for o in program.outputs]
    return Beside(outputs, found_others, moves_of(deltas, outputs))


def probe(
    program: Program,
    inputs: Sequence[Beside],
    delta_dtype: DTypeLike | None,
    unbounded: bool = False,
) -> Beside:
    """The types of what ``run_beside`` returns; the trace is dropped."""
    run = lambda inputs: run_beside(program, inputs, delta_dtype, None, unbounded)
    return jax.eval_shape(run, inputs)


def there(arrays: Arrays) -> list[bool]:
    """Which of them there are."""
    return [array is not None for array in arrays]


def of_results(at: Application, moves: Arrays, stand_ins: Arrays) -> Results:
    """Deltas of the results of an equation, and what stands in for their base values."""
    others = [
        result if other is None or not is_float(result) else other
        for result, other in zip(at.results, stand_ins, strict=True)
    ]
    return deltas_of(moves, at.results), others


def in_full(arrays: Arrays, results: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays, with a result in the place of each that there is not."""
    return [r if array is None else array for array, r in zip(arrays, results, strict=True)]


def subtracted_where(
    changes: Callable[[Beside], jax.Array],
    at: Application,
    operands: Beside,
    together: Pair,
    doubtful: bool = True,
) -> Pair:
    """Moves and stand-ins of the results, subtracted where a move changes the course.

    Args:
      changes: whether it does, of the operands; it closes over nothing that is mapped.
      at: the equation.
      operands: of it, from where on the courses may differ.
      together: moves and stand-ins where they do not.
      doubtful: whether results may be infinite.
    """
    calls = calls_host(at.eqn)

    def either(operands: Beside, results: list[jax.Array], together: Pair) -> Pair:
        def apart() -> Pair:
            starts = zero_where_infinite(results) if doubtful else results
            dtype, bases, values = at.delta_dtype, operands.bases, operands.values
            here = Application(at.eqn, bases, starts, dtype, values, results)
            return moves_of(evaluate_and_subtract(here, operands.deltas), results), starts

        where = changes(operands)
        if calls or not varying(where):
            return lax.cond(where, apart, lambda: together)
        # A cond under ``vmap``, inside ``shard_map``, marks as varying what does so already.
        return jax.tree.map(lambda a, b: jnp.where(where, a, b), apart(), together)

    results = list(at.results)
    moves, others = (in_full(arrays, results) for arrays in together)
    # Copies side by side would all ask the host for what only those need that change.
    run = sequential_vmap(either) if calls else either
    return run(operands, results, (moves, others))
