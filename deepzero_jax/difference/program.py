"""A traced function as a flat list of primitive applications.

Calls (jit, remat, custom derivatives) are inlined, loops of many rows get one test, choices
between known cases are made, equations on which no output depends are dropped, and equations that
depend on no unknown input can be hoisted.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import jax
from jax.extend import core

from deepzero_jax.callbacks import bind_callback
from deepzero_jax.cost import Operation, inner_live_bytes, most_alive, size_bytes
from deepzero_jax.difference.known import chosen_case, known_number
from deepzero_jax.jaxprs import CALLBACKS, with_one_test
from deepzero_jax.types import PyTree

# Primitives that only call another jaxpr, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

# Primitives that move the values of their first operand, or change their type.
MOVED = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "slice", "rev", "dynamic_slice"}
MOVED |= {"convert_element_type", "copy", "stop_gradient", "reduce_precision", "pvary"}


class Constant(NamedTuple):
    """An operand whose value is known when the program is built."""

    value: jax.typing.ArrayLike


# The number of a variable, or what it would stand for.
Operand = int | Constant
# Values by variable number; at ``inside(eqn)`` those within an equation, see ``base_values``.
Values = dict[int, Any]


class Equation(NamedTuple):
    """One application of a primitive.

    Attributes:
      primitive: of JAX.
      params: what ``primitive.bind`` takes.
      inputs: variable numbers or ``Constant``.
      outputs: variable numbers.
      output_bytes: size of each output.
    """

    primitive: core.Primitive
    params: dict[str, Any]
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    output_bytes: tuple[int, ...]


class Program(NamedTuple):
    """A flat function.

    Attributes:
      equations: in order.
      inputs: variable numbers.
      outputs: variable numbers or ``Constant``.
    """

    equations: list[Equation]
    inputs: tuple[int, ...]
    outputs: tuple[Operand, ...]


def inside(eqn: Equation) -> int:
    """Where the values within an equation stand among those of its program."""
    return -eqn.outputs[0] if eqn.outputs else 0


class _Builder:
    def __init__(self) -> None:
        self.equations: list[Equation] = []
        self._count = 0

    def fresh(self) -> int:
        self._count += 1
        return self._count

    def add(
        self,
        jaxpr: core.Jaxpr,
        consts: Sequence[jax.typing.ArrayLike],
        inputs: Sequence[Operand],
    ) -> list[Operand]:
        """Appends a jaxpr applied to operands; returns the operands of its outputs."""
        names: dict[core.Var, Operand] = {}
        names.update(zip(jaxpr.constvars, map(Constant, consts), strict=True))
        names.update(zip(jaxpr.invars, inputs, strict=True))

        def operand(atom: core.Var | core.Literal) -> Operand:
            return Constant(atom.val) if isinstance(atom, core.Literal) else names[atom]

        for eqn in jaxpr.eqns:
            operands = [operand(atom) for atom in eqn.invars]
            inner = eqn.params.get(CALLS.get(eqn.primitive.name, "")) or with_one_test(eqn)
            known = [item.value if isinstance(item, Constant) else None for item in operands]
            number, case = known_number(eqn, known), chosen_case(eqn, known)
            if number is not None:
                results: list[Operand] = [Constant(number)]
            elif case is not None:
                results = [operands[case]]
            elif inner is not None:
                closed = isinstance(inner, core.ClosedJaxpr)
                body, inner_consts = (inner.jaxpr, inner.consts) if closed else (inner, ())
                results = self.add(body, inner_consts, operands)
            else:
                fresh = [self.fresh() for _ in eqn.outvars]
                results = [*fresh]
                params = eqn.primitive.get_bind_params(eqn.params)
                sizes = tuple(size_bytes(var.aval) for var in eqn.outvars)
                self.equations.append(
                    Equation(eqn.primitive, params, tuple(operands), tuple(fresh), sizes)
                )
            names.update(zip(eqn.outvars, results, strict=True))
        return [operand(atom) for atom in jaxpr.outvars]


def flatten_jaxpr(closed: core.ClosedJaxpr) -> Program:
    """Inlines every call of a closed jaxpr."""
    builder = _Builder()
    inputs = [builder.fresh() for _ in closed.jaxpr.invars]
    outputs = builder.add(closed.jaxpr, closed.consts, inputs)
    return Program(builder.equations, tuple(inputs), tuple(outputs))


def trace(fun: Callable[..., PyTree], *args: PyTree) -> tuple[Program, Any]:
    """Traces ``fun(*args)`` into a program over the flattened arguments.

    Returns:
      The program, and the tree structure of the result.
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    return flatten_jaxpr(closed), jax.tree.structure(shape)


def without_dead_equations(program: Program, outputs: Sequence[Operand]) -> Program:
    """The part of a program on which ``outputs`` depend."""
    needed = {out for out in outputs if isinstance(out, int)}
    kept = []
    for eqn in reversed(program.equations):
        if needed.intersection(eqn.outputs):
            kept.append(eqn)
            needed.update(item for item in eqn.inputs if isinstance(item, int))
    return Program(kept[::-1], program.inputs, tuple(outputs))


def last_uses(program: Program) -> dict[int, int]:
    """At which equation each variable is read last; outputs are read after all of them."""
    found: dict[int, int] = {}
    for place, eqn in enumerate(program.equations):
        found.update((item, place) for item in eqn.inputs if isinstance(item, int))
    end = len(program.equations)
    return found | {item: end for item in program.outputs if isinstance(item, int)}


def read(values: Values, operand: Operand) -> jax.Array:
    """The value of an operand."""
    return cast(jax.Array, operand.value) if isinstance(operand, Constant) else values[operand]


def apply(eqn: Equation, operands: Iterable[jax.typing.ArrayLike]) -> list[jax.Array]:
    """Evaluates one equation."""
    if eqn.primitive.name in CALLBACKS:
        return bind_callback(eqn.primitive, eqn.params, list(operands))
    results = eqn.primitive.bind(*operands, **eqn.params)
    return list(results) if eqn.primitive.multiple_results else [results]


def evaluate(
    program: Program,
    inputs: Sequence[jax.Array],
    prepare: Callable[[jax.Array], jax.Array] = lambda value: value,
) -> Values:
    """Evaluates a program; every intermediate value, by variable number.

    Args:
      program: flat equations.
      inputs: values of its inputs.
      prepare: what is done to every operand first.
    """
    values = dict(zip(program.inputs, inputs, strict=True))
    for eqn in program.equations:
        results = apply(eqn, [prepare(read(values, item)) for item in eqn.inputs])
        values.update(zip(eqn.outputs, results, strict=True))
    return values


class Hoisted:
    """A function for arguments like some others, all that depends on none of them done now.

    Args:
      fun: the function.
      *args: like those that it will be called with.
    """

    def __init__(self, fun: Callable[..., PyTree], *args: PyTree) -> None:
        program, self._treedef = trace(fun, *args)
        self._input_bytes = [size_bytes(value) for value in jax.tree.leaves(args)]
        self._rest = hoist(program)

    def __call__(self, *inputs: PyTree) -> PyTree:
        """The value of the function."""
        values = evaluate(self._rest, jax.tree.leaves(inputs))
        return self._treedef.unflatten([read(values, item) for item in self._rest.outputs])

    def bytes_written(self) -> int:
        """Bytes of all that one call computes."""
        return sum(sum(eqn.output_bytes) for eqn in self._rest.equations)

    def live_bytes(self, with_inputs: bool = False) -> int:
        """Bytes that one call keeps alive at its worst moment, as ``cost.live_bytes``."""
        inputs = dict(zip(self._rest.inputs, self._input_bytes, strict=True))
        operations = [Operation((), inputs)] if with_inputs else []
        operations += [
            Operation(
                [item for item in eqn.inputs if isinstance(item, int)],
                dict(zip(eqn.outputs, eqn.output_bytes, strict=True)),
                inner_live_bytes(eqn.params),
            )
            for eqn in self._rest.equations
        ]
        return most_alive(operations, [v for v in self._rest.outputs if isinstance(v, int)])


def hoist(program: Program) -> Program:
    """Evaluates now what depends on no input of the program; the rest is returned.

    Used inside a trace: what the rest closes over are values of the surrounding
    computation, so a loop around the rest does not repeat their work.
    """
    unknown = set(program.inputs)
    known: Values = {}
    rest = []

    def lookup(item: Operand) -> Operand:
        return Constant(known[item]) if isinstance(item, int) and item in known else item

    for eqn in program.equations:
        operands = tuple(lookup(item) for item in eqn.inputs)
        if any(isinstance(item, int) and item in unknown for item in operands):
            unknown.update(eqn.outputs)
            rest.append(eqn._replace(inputs=operands))
        else:
            results = apply(eqn, [read({}, item) for item in operands])
            known.update(zip(eqn.outputs, results, strict=True))
    return Program(rest, program.inputs, tuple(lookup(item) for item in program.outputs))
