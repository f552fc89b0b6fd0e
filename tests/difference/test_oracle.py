"""The permanent oracle: float32 differences of many functions against float64 subtraction.

The law: where the true difference is finite, the engine's is finite and right; where the
truth is infinite, so is the engine's; where it is not a number, anything goes.
"""

import itertools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.difference.functions import ARRAYS, CANCELLING, COARSE, COMPLEX, ELEMENTWISE
from tests.marks import few

EPS, LARGEST = 1.2e-7, 3e38
STEPS = (0.5, -0.01, 1e-3, -1e-5, 1e-7)
GENERIC = [0.3, 0.7, -0.4, 1.7, -2.3, 3.1, 0.05]
EDGES = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.5, np.inf, -np.inf]
SATURATED = [6.0, 8.5, -8.5, -15.0, 20.0, -25.0, 88.0, -110.0]
POINTS = np.array(GENERIC + EDGES + SATURATED, np.float32)
COMPLEX_POINTS = np.array([0.3 + 0.4j, -1 + 0.5j, 2 - 1j, 1j, -2, 1.5], np.complex64)


def _grid(values):
    return np.resize(np.asarray(values, np.float32), (4, 6))


SPREAD = (1.3 * np.sin(1.0 + np.arange(24))).astype(np.float32).reshape(4, 6)
MATRICES = {
    "generic": SPREAD,
    "zeros": np.zeros((4, 6), np.float32),
    "ties": _grid([1, 1, 2, 2, 1, 2]),
    "integers": _grid([3, -1, 0, 2, 1, -2, 4]),
    "large": 8 * SPREAD,
    "infinite": np.where(np.arange(6) == 2, -np.inf, SPREAD).astype(np.float32),
}
MATRIX_STEPS = (0.3, 1e-4)
MOVES = np.cos(2.0 + np.arange(24)).reshape(4, 6)

# What breaks the law, {(name, x): reason}.
_FLIPS = "a choice flips: the value before is so large beside the new one that few digits remain"
_FORMS = "a choice flips between two formulas of one value, which differ by their roundings"
_EDGE = "no closed form leads from an edge: the evaluations are subtracted"
LIMITS = {
    ("jnp.sinc", 0.0): _FLIPS,
    ("guarded log", 0.0): _FLIPS,
    ("special.ndtr", -1.0): _FORMS,
    ("special.log_ndtr", -1.0): _FORMS,
    ("norm.cdf", -1.0): _FORMS,
    ("x^x", 0.0): _EDGE,
    ("rel_entr", 0.0): _EDGE,
    ("atan(1 / x)", 0.0): _EDGE,
}


def name_of(x):
    return next((name for name, matrix in MATRICES.items() if matrix is x), None)


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _wide(value):
    return np.asarray(value, np.complex128 if np.iscomplexobj(value) else np.float64)


class Oracle:
    """A function in float64, and its difference in float32, compiled once if asked."""

    def __init__(self, name, fun, compiled):
        self.name, self.elementwise = name, not compiled
        self.plain, self.compiled = fun, jax.jit(fun) if compiled else fun
        self.eager = lambda x, step: dz.difference(fun, (x,), (step,))[1]
        self.difference = jax.jit(self.eager) if compiled else self.eager

    def values(self, x):
        """In the precision of x; XLA may simplify 0 · ∞ away, so infinities are not compiled."""
        fun = self.compiled if np.isfinite(x).all() else self.plain
        return _leaves(fun(jnp.asarray(x)))

    def truth(self, x, step):
        """Values at base, moved, of the difference, and how much it answers to roundings."""
        with jax.enable_x64(True):
            at = lambda base: [_wide(v) for v in self.values(base)]
            x, step = _wide(x), _wide(step)
            base, moved = at(x), at(x + step)
            nudged = x * (1 + 2 * EPS)
            beside = zip(at(nudged + step * (1 + 2 * EPS)), at(nudged), strict=True)
            again = [a - b for a, b in beside]
        exact = [a - b for a, b in zip(moved, base, strict=True)]
        return base, moved, exact, [abs(a - b) for a, b in zip(again, exact, strict=True)]

    def allowed(self, x, step, values, exact, nudge):
        """The largest error that float32 explains."""
        finite, size = np.isfinite(exact), np.abs(step)
        scale = np.where(finite, np.abs(exact), 0)
        x = np.where(np.isfinite(x), np.abs(x), 0)
        values = np.where(np.isfinite(values), values, 0)
        if not self.elementwise:
            scale, values, x, size = (np.max(v, initial=0) for v in (scale, values, x, size))
        cancelling = self.name in CANCELLING
        error = (1e-2 if cancelling else 1e-4) * scale + 1e-15 * values + 3e-16 * (1 + x)
        nudge = np.nan_to_num(nudge, posinf=0)
        error = error + np.minimum(8 * nudge, 1e-3 * (scale + size))
        if self.name in COARSE or cancelling:
            error = error + 200 * EPS * (0.1 + values + x * scale / size)
        return error

    def check(self, x, step):
        """How many numbers were checked, and those that break the law."""
        base, moved, exact, rounding = self.truth(x, step)
        known = np.isfinite(x).all()
        run = self.difference if known else self.eager
        got = [_wide(v) for v in _leaves(run(jnp.asarray(x), jnp.asarray(step)))]
        stuck = self.name in COARSE and self.elementwise and x + step == x
        found, count = [], 0
        for place, (old, new, true, nudge, mine) in enumerate(
            zip(base, moved, exact, rounding, got, strict=True)
        ):
            values = np.abs(old) + np.abs(new)
            close = np.abs(mine - true) <= self.allowed(x, step, values, true, nudge)
            bad = np.isfinite(true) & ~close & ~(values > LARGEST)
            bad |= np.isinf(true) & ~np.isinf(mine)
            bad &= ~np.asarray(stuck)
            if np.any(bad & np.isnan(mine)):
                bad &= ~(np.isnan(mine) & np.isnan(self.subtracted(x, step)[place]))
            count += true.size
            for where in map(tuple, np.argwhere(bad)):
                at = x[where].item() if self.elementwise else name_of(x)
                if (self.name, at) not in LIMITS:
                    found.append(
                        (
                            self.name,
                            at,
                            step.ravel()[0] if name_of(x) else step[where],
                            true[where],
                            mine[where],
                        )
                    )
        return count, found

    def subtracted(self, x, step):
        """The difference of two evaluations in float32."""
        at = [self.values(v) for v in (x + step, x)]
        return [_wide(a) - _wide(b) for a, b in zip(*at, strict=True)]


def checks():
    """Every oracle with its points and steps."""
    points, steps = (v.ravel() for v in np.meshgrid(POINTS, np.float32(STEPS)))
    for name, fun in ELEMENTWISE.items():
        yield Oracle(name, fun, False), [(points, steps)]
    for name, fun in ARRAYS.items():
        pairs = [(x, np.float32(s * MOVES)) for x in MATRICES.values() for s in MATRIX_STEPS]
        # The last, infinite, are not compiled, and slow where there is much to trace.
        slow = name in COARSE or re.search("scan|vmap|grad|hess|iterat|sinkhorn|resize|hist", name)
        yield Oracle(name, fun, True), pairs[: -2 if slow else -1]
    for name, fun in COMPLEX.items():
        steps = (0.3 - 0.2j, 1e-4 + 2e-4j)
        pairs = [(COMPLEX_POINTS, np.full_like(COMPLEX_POINTS, s)) for s in steps]
        yield Oracle(f"complex {name}", fun, True), pairs


PARTS = 8


@pytest.mark.parametrize("part", few(range(PARTS)))
def test_the_law_holds_for_every_function(part, tell):
    num_functions = num_checks = 0
    found = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for oracle, pairs in itertools.islice(checks(), part, None, PARTS):
            num_functions += 1
            for x, step in pairs:
                count, bad = oracle.check(x, step)
                num_checks += count
                found += bad
    tell(f"{num_functions} functions, {num_checks} checks, {len(found)} wrong")
    assert num_functions >= 300 / PARTS
    assert not found, "\n".join(map(str, found[:50]))
