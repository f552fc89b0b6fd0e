"""The finite-difference transform: one pass of deltas beside a pass of base values."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.program import (
    Constant,
    Operand,
    Program,
    Values,
    evaluate,
    read,
    trace,
    without_dead_equations,
)
from deepzero_jax.difference.rules import propagate_equation
from deepzero_jax.difference.values import ZERO, Delta, Moved, Zero, dense, is_float
from deepzero_jax.types import PyTree


def propagate(
    program: Program,
    values: Values,
    deltas: Sequence[Delta],
    delta_dtype: jax.typing.DTypeLike | None = None,
) -> list[Delta]:
    """Deltas of a program's outputs, given base values and the deltas of its inputs.

    Equations whose inputs do not move are not visited: feature reuse falls out.

    Args:
      program: flat equations.
      values: every base value, from ``evaluate``.
      deltas: of the inputs.
      delta_dtype: type of the operands of products of deltas, or None.
    """
    moving: dict[int, Delta] = {
        number: delta
        for number, delta in zip(program.inputs, deltas, strict=True)
        if not isinstance(delta, Zero)
    }

    def delta_of(item: Operand) -> Delta:
        return ZERO if isinstance(item, Constant) else moving.get(item, ZERO)

    for eqn in program.equations:
        inputs = [delta_of(item) for item in eqn.inputs]
        if all(isinstance(delta, Zero) for delta in inputs):
            continue
        at = Application(
            eqn,
            [read(values, item) for item in eqn.inputs],
            [values[number] for number in eqn.outputs],
            delta_dtype,
        )
        for number, delta in zip(eqn.outputs, propagate_equation(at, inputs), strict=True):
            if not isinstance(delta, Zero):
                moving[number] = delta
    return [delta_of(item) for item in program.outputs]


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
      ``(fun(*primals), delta)``, two pytrees of the same structure. For an integer or
      boolean output the delta is the new value minus the old one, as an integer.

    Raises:
      TypeError: ``deltas`` are not like ``primals``.

    **Cost**: one base pass, and one pass of deltas through what depends on inputs that
    move. A primitive without a rule is evaluated at the perturbed point and subtracted.
    Departure from a plain subtraction: x + Δ is never rounded to the grid of x.

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
    values = evaluate(program, flat)
    moved = propagate(program, values, checked)
    outputs = [jnp.asarray(read(values, item)) for item in program.outputs]
    results = [_as_array(delta, out) for delta, out in zip(moved, outputs, strict=True)]
    return out_tree.unflatten(outputs), out_tree.unflatten(results)


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
    return jnp.asarray(delta, value.dtype)


def _as_array(delta: Delta, out: jax.Array) -> jax.Array:
    if isinstance(delta, Moved):
        return delta.value.astype(jnp.int32) - out.astype(jnp.int32)
    if isinstance(delta, Zero) and not is_float(out):
        return jnp.zeros(out.shape, jnp.int32)
    return dense(delta, out).astype(out.dtype)
