"""Gradient estimators: coordinate-wise, randomised, and autodiff, behind one contract."""

from deepzero_jax.estimators.cge import cge
from deepzero_jax.estimators.contract import Estimator, num_queries, value_and_grad
from deepzero_jax.estimators.costs import coordinate_costs
from deepzero_jax.estimators.first_order import first_order
from deepzero_jax.estimators.rge import rge

__all__ = [
    "Estimator",
    "cge",
    "coordinate_costs",
    "first_order",
    "num_queries",
    "rge",
    "value_and_grad",
]
