"""The difference engine: exact finite differences, propagated through any JAX function."""

from deepzero_jax.difference import control, elementwise, products, reductions, structure
from deepzero_jax.difference.interpreter import difference
from deepzero_jax.difference.rules import register_rule

__all__ = [
    "control",
    "difference",
    "elementwise",
    "products",
    "reductions",
    "register_rule",
    "structure",
]
