"""Gradient estimators: coordinate-wise, randomised, and autodiff, behind one contract."""

from deepzero_jax.estimators.autodiff import AutodiffEstimator, first_order
from deepzero_jax.estimators.contract import CoordinateEstimator, DirectionEstimator, Estimator
from deepzero_jax.estimators.coordinatewise import Reuse, cge
from deepzero_jax.estimators.devices import sharded
from deepzero_jax.estimators.directions import Distribution
from deepzero_jax.estimators.gradients import ValueAndGrad, num_queries, value_and_grad
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.pricing import coordinate_costs
from deepzero_jax.estimators.quality import GradientQuality, gradient_quality
from deepzero_jax.estimators.randomized import DirectionReuse, rge
from deepzero_jax.estimators.smoothing import Smoothing, check_smoothing

__all__ = [
    "AutodiffEstimator",
    "CoordinateEstimator",
    "DirectionEstimator",
    "DirectionReuse",
    "Distribution",
    "Estimator",
    "GradientQuality",
    "Loss",
    "Reuse",
    "Smoothing",
    "ValueAndAux",
    "ValueAndGrad",
    "cge",
    "check_smoothing",
    "coordinate_costs",
    "first_order",
    "gradient_quality",
    "num_queries",
    "rge",
    "sharded",
    "value_and_grad",
]
