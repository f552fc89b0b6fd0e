"""Which values of a program may be infinite whatever moves, because a constant is.

A masked score, a dynamic programme's start and the padding of a maximum are infinite and stay so:
their delta is zero, where ``−∞ − (−∞)`` would be no number. (An infinity that a primitive makes of
numbers that move has a stand-in instead, see ``application``.)
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from deepzero_jax.difference.program import MOVED, Constant, Equation, Operand, Program
from deepzero_jax.difference.values import is_float
from deepzero_jax.jaxprs import sub_jaxprs

# Which infinities a value may hold.
LOW, HIGH = 1, 2
BOTH = LOW | HIGH
# A constant so near to the largest number of its type may overflow: a mask of ``finfo.min``.
_NEAR = 1e-4
# Results that are among the operands, or lie between them.
_KEPT = MOVED | {"gather", "sort", "split", "top_k", "select_n", "concatenate", "pad", "scatter"}
_KEPT |= {"reduce_max", "reduce_min", "cummax", "cummin", "cumsum", "reduce_sum", "add", "add_any"}
_KEPT |= {"dynamic_update_slice", "psum", "psum_invariant", "pmax", "pmin"}
_KEPT |= {"reduce_window_max", "reduce_window_min", "optimization_barrier", "sqrt", "log"}
_FINITE = {"logistic", "tanh", "erf", "erfc", "atan", "sign"}
_MAKING = {"log": LOW, "log2": LOW, "rsqrt": HIGH, "div": BOTH, "pow": BOTH, "integer_pow": BOTH}
_PADDED = {"reduce_window_max": LOW, "reduce_window_min": HIGH}


def unbounded(
    program: Program, everything: bool, finite: Callable[[Equation], bool]
) -> dict[int, int]:
    """What infinities values may hold, by variable number; those that hold none are left out.

    Args:
      program: flat equations.
      everything: whether every value may be infinite, as in a loop that was given one.
      finite: whether an equation that might make an infinity is known not to.
    """
    found: dict[int, int] = dict.fromkeys(program.inputs, BOTH) if everything else {}
    for eqn in program.equations:
        held = [holds(item, found) for item in eqn.inputs]
        if everything or any(map(_starts_infinite, sub_jaxprs(eqn.params))):
            kept = BOTH
        else:
            kept = (_after(eqn, held, finite) if any(held) else 0) | _made(eqn, finite)
        if kept:
            found.update(dict.fromkeys(eqn.outputs, kept))
    return found


def holds(item: Operand, found: dict[int, int]) -> int:
    """What infinities an operand may hold."""
    return _of_constant(item.value) if isinstance(item, Constant) else found.get(item, 0)


def _after(eqn: Equation, held: Sequence[int], finite: Callable[[Equation], bool]) -> int:
    name, union = eqn.primitive.name, 0
    for one in held:
        union |= one
    if name in _FINITE or (name in ("exp", "exp2") and (union == LOW or finite(eqn))):
        return 0
    if name in _KEPT:
        return union
    if name in ("neg", "sub"):
        last = held[-1]
        return (held[0] if name == "sub" else 0) | (last & LOW) << 1 | (last & HIGH) >> 1
    if name in ("max", "min"):
        # Of a maximum only what all operands hold may be −∞.
        ruling, other = (HIGH, LOW) if name == "max" else (LOW, HIGH)
        return union & ruling | (other if all(one & other for one in held) else 0)
    return BOTH


def _made(eqn: Equation, finite: Callable[[Equation], bool]) -> int:
    """What an equation makes of finite operands: of zeros, or where a window holds but padding.

    Where they move there is a stand-in; a mask given as zeros and ones may be still.
    """
    name = eqn.primitive.name
    if name in _MAKING:
        return 0 if finite(eqn) else _MAKING[name]
    if name not in _PADDED:
        return 0
    names = ("padding", "window_dimensions", "window_dilation")
    alone = any(
        max(ends) >= (size - 1) * step + 1
        for ends, size, step in zip(*(eqn.params[name] for name in names), strict=True)
    )
    return _PADDED[name] if alone else 0


def _starts_infinite(jaxpr: core.Jaxpr) -> bool:
    """Whether a program inside an equation holds an infinite constant that is not just a bound."""
    return any(
        any(map(_starts_infinite, sub_jaxprs(eqn.params)))
        or (
            eqn.primitive.name not in ("max", "min")
            and any(isinstance(a, core.Literal) and _of_constant(a.val) for a in eqn.invars)
        )
        for eqn in jaxpr.eqns
    )


def _of_constant(value: Any) -> int:
    if isinstance(value, Tracer) or not is_float(value):
        return 0
    if not isinstance(value, jax.Array):
        return _look(value)
    place = id(value)
    if place not in _looked_at:
        _looked_at[place] = _look(value)
        weakref.finalize(value, _looked_at.pop, place, None)
    return _looked_at[place]


# Arrays may be large, and stand in many programs; by ``id``, as they have no hash.
_looked_at: dict[int, int] = {}


def _look(value: Any) -> int:
    with jax.ensure_compile_time_eval():
        number = np.asarray(value)
    number = number.astype(np.float32) if number.dtype.kind == "V" else number
    if number.size == 0 or np.iscomplexobj(number):
        return 0
    most = float(jnp.finfo(jnp.result_type(value)).max) * _NEAR
    low, high = float(number.min()), float(number.max())
    return BOTH if np.isnan(low) else LOW * (low <= -most) | HIGH * (high >= most)
