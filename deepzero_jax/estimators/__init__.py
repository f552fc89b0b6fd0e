"""Gradient estimators: coordinate-wise, randomised, and autodiff, behind one contract."""

from collections.abc import Callable

from deepzero_jax.estimators import host_difference
from deepzero_jax.estimators.asking import Tell, ask
from deepzero_jax.estimators.autodiff import AutodiffEstimator, first_order
from deepzero_jax.estimators.boundary import (
    Differentiable,
    Record,
    cosine_basis,
    differentiable,
    fit_surrogate,
    windows,
)
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, counting_passes
from deepzero_jax.estimators.contract import (
    CoordinateEstimator,
    DirectionEstimator,
    Estimator,
    with_probe,
)
from deepzero_jax.estimators.coordinatewise import Reuse, cge
from deepzero_jax.estimators.devices import sharded
from deepzero_jax.estimators.directions import Distribution
from deepzero_jax.estimators.gradients import ValueAndGrad, num_queries, value_and_grad
from deepzero_jax.estimators.host_use import slopes_dropped
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.pricing import coordinate_costs, estimator_costs
from deepzero_jax.estimators.probing import Probe, probe_smoothing
from deepzero_jax.estimators.quality import GradientQuality, gradient_quality
from deepzero_jax.estimators.randomized import DirectionReuse, rge
from deepzero_jax.estimators.smoothing import Smoothing, check_smoothing
from deepzero_jax.registry import Registry

# Makers of estimators; each takes those options that it has arguments for.
ESTIMATORS: Registry[Callable[..., Estimator]] = Registry(
    "estimator", {"cge": cge, "rge": rge, "first_order": first_order}, importable=True
)

__all__ = [
    "ESTIMATORS",
    "AutodiffEstimator",
    "BatchSize",
    "CoordinateEstimator",
    "Differentiable",
    "DirectionEstimator",
    "DirectionReuse",
    "Distribution",
    "Estimator",
    "GradientQuality",
    "Loss",
    "Probe",
    "Record",
    "Reuse",
    "Smoothing",
    "Tell",
    "ValueAndAux",
    "ValueAndGrad",
    "ask",
    "cge",
    "check_batch_size",
    "check_smoothing",
    "coordinate_costs",
    "cosine_basis",
    "counting_passes",
    "differentiable",
    "estimator_costs",
    "first_order",
    "fit_surrogate",
    "gradient_quality",
    "host_difference",
    "num_queries",
    "probe_smoothing",
    "rge",
    "sharded",
    "slopes_dropped",
    "value_and_grad",
    "windows",
    "with_probe",
]
