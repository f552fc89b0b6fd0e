"""The finite-difference transform of a function: its value and its difference, in one call."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from deepzero_jax.difference.base_values import results_of
from deepzero_jax.difference.interpreter import Passing
from deepzero_jax.difference.precision import is_low, wide, wide_dtype
from deepzero_jax.difference.program import (
    Program,
    Values,
    inside,
    last_uses,
    read,
    trace,
    without_dead_equations,
)
from deepzero_jax.difference.values import ZERO, Delta, Moved, Zero, dense, is_float
from deepzero_jax.types import PyTree


def difference(
    fun: Callable[..., PyTree], primals: Sequence[PyTree], deltas: Sequence[PyTree]
) -> tuple[PyTree, PyTree]:
    r"""Evaluates a function and its exact finite difference: $f(x)$ and $f(x + Δ) - f(x)$.

    The difference is propagated through the operations of ``fun`` in forms that do not
    cancel, so it keeps its relative accuracy however small Δ is; subtracting two
    evaluations loses the digits that they share. As Δ → 0 it becomes ``jax.jvp``.

    Args:
      fun: any traceable function of pytrees of arrays.
      primals: the arguments x, a sequence of pytrees.
      deltas: Δ, a sequence of pytrees like ``primals``. The delta of an integer or
        boolean is of dtype ``float0``, as in ``jax.jvp``, and means zero.

    Returns:
      ``(fun(*primals), delta)``, two pytrees of the same structure and types. For an
      integer or boolean output the delta is the new value minus the old one, as an int32;
      for an output of float16 (or eight bits) it is float32, as float16 holds nothing below 6e-8.

    Raises:
      TypeError: ``deltas`` are not like ``primals``.

    **Cost**: one base pass, and one pass of deltas through what depends on inputs that
    move. A primitive without a rule is evaluated at the perturbed point and subtracted.
    Infinite primals are noticed where values are concrete; under ``jit`` primals count as
    finite. Infinities that the function itself makes and loses again are no obstacle, and those
    that stay (masked scores, padding) have no difference.
    Departure from a plain subtraction: x + Δ is never rounded to the grid of x, and
    neither is what follows from it: a cast to a narrower floating-point type and
    ``lax.reduce_precision`` round the base and let Δ pass, as straight-through gradients do
    (``jnp.round`` does not). float16 and bfloat16 steps are propagated in float32, operands of
    bfloat16 products apart.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> out, delta = dz.difference(jnp.exp, (1.0,), (1e-7,))
      >>> print(out, delta)
      2.7182817 2.7182818e-07
      >>> subtracted = jnp.exp(1.0 + 1e-7) - jnp.exp(1.0)
      >>> bool(abs(subtracted - delta) > 0.1 * delta)
      True
    """
    flat, treedef = jax.tree.flatten(tuple(primals))
    flat_deltas, delta_tree = jax.tree.flatten(tuple(deltas))
    if treedef != delta_tree:
        raise TypeError(f"deltas must have the structure of primals, {treedef}; got {delta_tree}")
    flat = [jnp.asarray(value) for value in flat]
    checked = [_check_delta(v, d) for v, d in zip(flat, flat_deltas, strict=True)]
    program, out_tree = trace(lambda *args: fun(*args), *treedef.unflatten(flat))
    program = without_dead_equations(program, program.outputs)
    stand_ins, checked = _infinite_primals(program, flat, checked)
    outputs, moved = _evaluate_and_propagate(program, flat, checked, stand_ins)
    results = [_as_array(delta, out) for delta, out in zip(moved, outputs, strict=True)]
    return out_tree.unflatten(outputs), out_tree.unflatten(results)


def _evaluate_and_propagate(
    program: Program,
    inputs: Sequence[jax.Array],
    deltas: Sequence[Delta],
    stand_ins: Values | None = None,
) -> tuple[list[jax.Array], list[Delta]]:
    """Both passes at once; of each value nothing is kept after its last use.

    Args:
      program: flat equations.
      inputs: base values of its inputs.
      deltas: of the inputs.
      stand_ins: as in ``propagate``.

    Returns:
      Base values and deltas of the outputs.
    """
    values, last_use = dict(zip(program.inputs, inputs, strict=True)), last_uses(program)
    passing = Passing(program, values, None)
    passing = passing.anew(dict(zip(program.inputs, deltas, strict=True)), stand_ins)
    for place, eqn in enumerate(program.equations):
        values.update(results_of(eqn, [read(values, item) for item in eqn.inputs]))
        passing.advance(place)
        values.pop(inside(eqn), None)
        for item in (*eqn.inputs, *eqn.outputs):
            if isinstance(item, int) and last_use.get(item, place) <= place:
                values.pop(item, None)
    outputs = [jnp.asarray(read(values, item)) for item in program.outputs]
    return outputs, [passing.result(item) for item in program.outputs]


def _infinite_primals(
    program: Program, primals: Sequence[jax.Array], deltas: Sequence[Delta]
) -> tuple[Values, list[Delta]]:
    """Zeros that stand in for primals that are known not to be finite, and deltas from there."""
    stand_ins: Values = {}
    found = list(deltas)
    for place, (value, delta) in enumerate(zip(primals, deltas, strict=True)):
        if isinstance(delta, Zero) or isinstance(value, Tracer):
            continue
        with jax.ensure_compile_time_eval():  # the deltas may be traced
            finite = jnp.isfinite(value)
            all_finite = bool(jnp.all(finite))
        if not all_finite:
            stand_ins[program.inputs[place]] = jnp.where(finite, value, 0)
            moves = dense(delta, value)
            found[place] = jnp.where(finite, moves, wide(value) + moves)
    return stand_ins, found


def _check_delta(value: jax.Array, delta: jax.typing.ArrayLike) -> Delta:
    if getattr(delta, "dtype", None) == jax.dtypes.float0:
        return ZERO
    if not is_float(value):
        raise TypeError(
            f"a primal of dtype {value.dtype} has no difference; give it a delta of dtype float0"
        )
    if np.shape(delta) != value.shape:
        raise TypeError(
            f"a delta must have the shape of its primal, {value.shape}; got {np.shape(delta)}"
        )
    # In float32 for types of 16 bits or fewer: a small step must not become zero.
    return jnp.asarray(delta, wide_dtype(value.dtype))


def _as_array(delta: Delta, out: jax.Array) -> jax.Array:
    if isinstance(delta, Moved):
        return delta.value.astype(jnp.int32) - out.astype(jnp.int32)
    if isinstance(delta, Zero) and not is_float(out):
        return jnp.zeros(out.shape, jnp.int32)
    coarse = out.dtype != jnp.bfloat16 and is_low(out)
    return dense(delta, out).astype(jnp.float32 if coarse else out.dtype)
