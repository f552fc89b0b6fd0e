"""Gradient estimators: coordinate-wise, randomised, and autodiff, behind one contract."""

from deepzero_jax.estimators.cge import cge
from deepzero_jax.estimators.contract import Estimator, num_queries, value_and_grad
from deepzero_jax.estimators.costs import coordinate_costs
from deepzero_jax.estimators.first_order import first_order
from deepzero_jax.estimators.quality import GradientQuality, gradient_quality
from deepzero_jax.estimators.rge import rge
from deepzero_jax.estimators.sharded import sharded

__all__ = [
    "Estimator",
    "GradientQuality",
    "cge",
    "coordinate_costs",
    "first_order",
    "gradient_quality",
    "num_queries",
    "rge",
    "sharded",
    "value_and_grad",
]
