"""Numbers that are known while a program is built, and choices that follow from them.

``jnp.var`` divides where there is something to divide by, and chooses NaN where not: of a choice
that is made already, what was not chosen is no part of the program.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core

# Those whose results NumPy has to the same bits.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "convert_element_type": np.asarray,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "not": np.invert,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}


def known_number(eqn: core.JaxprEqn, values: Sequence[Any]) -> np.ndarray | None:
    """The scalar that an equation makes of known ones; None where it does not.

    Args:
      eqn: an equation.
      values: of its operands; None for one that is not known.
    """
    compute = _ARITHMETIC.get(eqn.primitive.name)
    if compute is None or not all(map(_is_number, values)) or _is_cut(eqn):
        return None
    pairs = zip(values, eqn.invars, strict=True)
    numbers = [np.asarray(value, _dtype(atom.aval)) for value, atom in pairs]
    with np.errstate(all="ignore"):
        return np.asarray(compute(*numbers)).astype(_dtype(eqn.outvars[0].aval))


def chosen_case(eqn: core.JaxprEqn, values: Sequence[Any]) -> int | None:
    """The place among the operands of what a choice takes; None where it is no choice, or open.

    A number of no case means the one that is next to it, as in XLA.
    """
    if eqn.primitive.name != "select_n" or not _is_number(values[0]):
        return None
    return 1 + min(max(int(np.asarray(values[0])), 0), len(eqn.invars) - 2)


def _is_cut(eqn: core.JaxprEqn) -> bool:
    """Whether a number becomes an integer: XLA and NumPy differ where it holds no such number."""
    before, after = _dtype(eqn.invars[0].aval), _dtype(eqn.outvars[0].aval)
    return after.kind in "iu" and before.kind not in "iub"


def _dtype(aval: Any) -> np.dtype:
    return np.dtype(aval.dtype)


def _is_number(value: Any) -> bool:
    """Arrays of JAX are left alone: reading one waits for it."""
    if value is None or isinstance(value, Tracer | jax.Array):
        return False
    return np.ndim(value) == 0
