"""Gradients at the boundary of a function that can only be evaluated."""

from deepzero_jax.estimators.boundary.function import Differentiable, Estimate, differentiable
from deepzero_jax.estimators.boundary.structure import cosine_basis, windows
from deepzero_jax.estimators.boundary.students import Fitted, Record, fit_surrogate

__all__ = [
    "Differentiable",
    "Estimate",
    "Fitted",
    "Record",
    "cosine_basis",
    "differentiable",
    "fit_surrogate",
    "windows",
]
