"""The difference engine: exact finite differences, propagated through any JAX function."""

from deepzero_jax.difference import (
    choices,
    collectives,
    elementwise,
    loops,
    products,
    reductions,
    structure,
    transcendental,
)
from deepzero_jax.difference.interpreter import propagate
from deepzero_jax.difference.platforms import forms_of
from deepzero_jax.difference.program import (
    Hoisted,
    evaluate,
    read,
    trace,
    without_dead_equations,
)
from deepzero_jax.difference.rules import RULES, deregister_rule, register_rule
from deepzero_jax.difference.transform import difference
from deepzero_jax.difference.values import ZERO, Channel, Delta, Point, dense

__all__ = [
    "RULES",
    "ZERO",
    "Channel",
    "Delta",
    "Hoisted",
    "Point",
    "choices",
    "collectives",
    "dense",
    "deregister_rule",
    "difference",
    "elementwise",
    "evaluate",
    "forms_of",
    "loops",
    "products",
    "propagate",
    "read",
    "reductions",
    "register_rule",
    "structure",
    "trace",
    "transcendental",
    "without_dead_equations",
]
