"""What a program says of the signs of its values, so that most quotients need no guard.

A batch-norm's ``rsqrt(max(v, 0) + ε)`` or a softmax's sum of ``exp(x − max x)`` cannot reach
zero, whatever the numbers. What cannot be proved counts as unknown.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from deepzero_jax.difference.program import MOVED, Constant, Equation, Operand, Program
from deepzero_jax.difference.unbounded import holds, unbounded

# Lower bounds: unknown, ≥ 0, > 0.
UNKNOWN, NONNEGATIVE, POSITIVE = range(3)
_KEEPING = MOVED | {"reduce_max", "reduce_min", "cumsum", "sqrt", "optimization_barrier"}
_EVEN_OR_EXP = {"square", "abs", "exp", "exp2", "logistic"}
# Deeper than this nothing is looked up: a proof costs time to trace.
_DEPTH = 40


class Signs:
    """Lower bounds of the values of one program, and which may be infinite."""

    def __init__(self, program: Program, everything_unbounded: bool = False) -> None:
        self._made = {out: eqn for eqn in program.equations for out in eqn.outputs}
        self._lower: dict[int, int] = {}
        self._unbounded = unbounded(program, everything_unbounded, self.finite)

    def finite(self, eqn: Equation) -> bool:
        """Whether a primitive that can make an infinity or NaN does not here."""
        name, operands = eqn.primitive.name, eqn.inputs
        if name in ("rsqrt", "log", "log2"):
            return self.lower(operands[0]) == POSITIVE
        if name in ("sqrt", "log1p"):
            return self.lower(operands[0]) >= NONNEGATIVE
        if name in ("exp", "exp2", "expm1"):
            return self.nonpositive(operands[0])
        if name == "div":
            number = _number(operands[1])
            nonzero = number is not None and bool(np.all((number != 0) & np.isfinite(number)))
            return nonzero or self.lower(operands[1]) == POSITIVE
        if name == "pow":
            number = _number(operands[1])
            if number is None:
                return False
            least = self.lower(operands[0])
            return least == POSITIVE or (least == NONNEGATIVE and bool(np.all(number > 0)))
        return name == "integer_pow" and eqn.params["y"] >= 0

    def unbounded(self, item: Operand) -> bool:
        """Whether a value may be infinite because a constant is."""
        return bool(holds(item, self._unbounded))

    def lower(self, item: Operand, depth: int = 0) -> int:
        """A lower bound of a value."""
        if isinstance(item, Constant):
            number = _number(item)
            if number is None or number.dtype.kind not in "fiu" or number.size == 0:
                return UNKNOWN
            return int(number.min() >= 0) + int(number.min() > 0)
        if item not in self._lower:
            eqn = self._made.get(item)
            if eqn is None or depth > _DEPTH:
                return UNKNOWN
            self._lower[item] = self._of_equation(eqn, depth + 1)
        return self._lower[item]

    def _of_equation(self, eqn: Equation, depth: int) -> int:
        name, operands = eqn.primitive.name, eqn.inputs
        if name in _EVEN_OR_EXP:
            return NONNEGATIVE
        if name == "integer_pow" and eqn.params["y"] % 2 == 0:
            return NONNEGATIVE
        if name == "mul" and operands[0] == operands[1]:
            return NONNEGATIVE
        if name == "reduce_sum" and self._has_a_one(eqn):
            return POSITIVE
        if name in _KEEPING:
            return self.lower(operands[0], depth)
        if name in ("max", "add", "mul", "div", "min", "concatenate", "select_n"):
            cases = operands[1:] if name == "select_n" else operands
            bounds = [self.lower(case, depth) for case in cases]
            if name == "max":
                return max(bounds)
            if name == "add":
                return max(bounds) if min(bounds) >= NONNEGATIVE else UNKNOWN
            # A product or quotient of positive numbers may be too small for its type.
            return min(*bounds, NONNEGATIVE) if name in ("mul", "div") else min(bounds)
        if name in ("reduce_sum", "psum", "psum_invariant"):
            return self.lower(operands[0], depth)
        return UNKNOWN

    def nonpositive(self, item: Operand) -> bool:
        """Whether a value is known to be at most zero."""
        if isinstance(item, Constant):
            number = _number(item)
            return number is not None and number.dtype.kind in "fiu" and bool(np.all(number <= 0))
        eqn = self._made.get(item)
        if eqn is None:
            return False
        name, operands = eqn.primitive.name, eqn.inputs
        if name == "neg":
            return self.lower(operands[0]) >= NONNEGATIVE
        if name == "sub":
            return self._maximum_axes(operands[1], operands[0]) is not None
        if name == "select_n":
            return len(operands) == 3 and self._is_cut_at_zero(operands)
        return name in MOVED and self.nonpositive(operands[0])

    def _is_cut_at_zero(self, operands: tuple[Operand, ...]) -> bool:
        """``where(x > 0, constant ≤ 0, x)``, as in ``jax.nn.elu``."""
        chooser, otherwise, chosen = operands
        eqn = None if isinstance(chooser, Constant) else self._made.get(chooser)
        if eqn is None or eqn.primitive.name not in ("gt", "ge") or eqn.inputs[0] != otherwise:
            return False
        return self.nonpositive(eqn.inputs[1]) and self.nonpositive(chosen)

    def _maximum_axes(
        self, item: Operand, of: Operand, exact: bool = False
    ) -> tuple[int, ...] | None:
        """Over which axes a value is ``of``'s own maximum, spread out again; None if it is not.

        Unless ``exact``, one that may be larger, as with a floor, is one too.
        """
        spreads = []
        while not isinstance(item, Constant):
            eqn = self._made.get(item)
            if eqn is None:
                return None
            name, operands = eqn.primitive.name, eqn.inputs
            if name == "reduce_max":
                axes = tuple(eqn.params["axes"])
                fits = operands[0] == of and all(_puts_back(s, axes) for s in spreads)
                return axes if fits else None
            if name == "max":
                floors = [o for o in operands if isinstance(o, Constant)]
                operands = tuple(o for o in operands if not isinstance(o, Constant))
                if len(operands) != 1 or (exact and not all(map(_is_lowest, floors))):
                    return None
            elif name == "select_n":
                # logsumexp takes a constant where the maximum is infinite.
                operands = tuple(o for o in operands[1:] if not self._is_constant(o))
                if exact or len(operands) != 1:
                    return None
            elif name == "broadcast_in_dim":
                spreads.append(eqn.params)
            elif name not in ("stop_gradient", "copy"):
                return None
            item = operands[0]
        return None

    def _is_constant(self, item: Operand) -> bool:
        while not isinstance(item, Constant):
            eqn = self._made.get(item)
            if eqn is None or eqn.primitive.name != "broadcast_in_dim":
                return False
            item = eqn.inputs[0]
        return True

    def _has_a_one(self, eqn: Equation) -> bool:
        """``sum(exp(x − max x))``: the largest term is one."""
        item = eqn.inputs[0]
        for name in ("exp", "sub"):
            made = None if isinstance(item, Constant) else self._made.get(item)
            if made is None or made.primitive.name != name:
                return False
            item, last = made.inputs[0], made.inputs[-1]
        axes = self._maximum_axes(last, item, exact=True)
        return axes is not None and set(axes) <= set(eqn.params["axes"])


def _puts_back(params: dict[str, Any], axes: tuple[int, ...]) -> bool:
    """Whether a broadcast brings a maximum over ``axes`` back to where it came from."""
    rank, where = len(params["shape"]), tuple(params["broadcast_dimensions"])
    kept = tuple(axis for axis in range(rank) if axis not in axes)
    return where in (kept, tuple(range(rank)))


def _is_lowest(item: Operand) -> bool:
    number = _number(item)
    return number is not None and bool(np.all(number == -np.inf))


def _number(item: Operand) -> np.ndarray | None:
    """A constant that is known while tracing."""
    if not isinstance(item, Constant) or isinstance(item.value, Tracer):
        return None
    if not jnp.issubdtype(jnp.result_type(item.value), jnp.number):
        return None
    number = np.asarray(item.value)
    return number.astype(np.float64) if number.dtype.kind == "V" else number
