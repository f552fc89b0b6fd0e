"""Differences of values of 16 bits or fewer are float32: a small step is below their grid.

Base values are as the function computes them; deltas of them, and what is evaluated at a
perturbed point, take no part in that rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from deepzero_jax.difference.program import Equation, evaluate, flatten_jaxpr, read
from deepzero_jax.jaxprs import CALLBACKS

# They read the bits of their operands.
BITS = {"bitcast_convert_type"}
# They hand their operands to code that expects the types it was written for.
_FOREIGN = {*CALLBACKS, *BITS, "ffi_call", "custom_partitioning", "call_exported"}


def is_low(value: jax.typing.ArrayLike) -> bool:
    """Whether a value is of a type too coarse for small differences."""
    return _is_low(jnp.result_type(value))


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The type of the deltas of values of a type."""
    return jnp.dtype(jnp.float32) if _is_low(dtype) else dtype


def _is_low(dtype: jnp.dtype) -> bool:
    return jnp.dtype(dtype).itemsize < 4 and jnp.issubdtype(dtype, jnp.floating)


def wide(value: jax.Array) -> jax.Array:
    """A value in the type of its deltas."""
    if not is_low(value):
        return value
    return rounded_as(jnp.asarray(value, jnp.float32), jnp.result_type(value))


def rounded_as(value: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A float32 value, rounded as a coarse type rounds it.

    XLA may leave out that a value is rounded where it is at once widened, and not elsewhere, and
    the two would differ by far more than a delta.
    """
    # With the exponents of float32: others would make zeros of small numbers.
    num_exponent_bits = jnp.finfo(jnp.float32).nexp
    return lax.reduce_precision(value, num_exponent_bits, jnp.finfo(dtype).nmant)


def wide_equation(eqn: Equation) -> Equation:
    """The same equation for operands made ``wide``.

    Raises:
      TypeError: the primitive calls foreign code.
    """
    if eqn.primitive.name in _FOREIGN:
        raise TypeError(
            f"the operands of {eqn.primitive.name} that move must not be of 16 bits or fewer, "
            "which hold no small difference; convert them to float32 before the call"
        )
    return eqn._replace(params={name: _wide_param(v) for name, v in eqn.params.items()})


def _wide_param(value: Any) -> Any:
    if isinstance(value, ClosedJaxpr):
        return _wide_jaxpr(value)
    if isinstance(value, Jaxpr):
        return _wide_jaxpr(ClosedJaxpr(value, ())).jaxpr if not value.constvars else value
    if isinstance(value, tuple) and any(isinstance(item, ClosedJaxpr) for item in value):
        return tuple(map(_wide_param, value))
    return wide_dtype(value) if isinstance(value, jnp.dtype) else value


def _wide_jaxpr(closed: ClosedJaxpr) -> ClosedJaxpr:
    program = flatten_jaxpr(closed)
    equations = [wide_equation(eqn) for eqn in program.equations]
    program = program._replace(equations=equations)

    def run(*inputs: jax.Array) -> list[jax.Array]:
        values = evaluate(program, inputs, wide)
        return [wide(read(values, item)) for item in program.outputs]

    shapes = [jax.ShapeDtypeStruct(aval.shape, wide_dtype(aval.dtype)) for aval in closed.in_avals]
    return jax.make_jaxpr(run)(*shapes)
