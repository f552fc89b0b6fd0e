"""Gradients at the boundary of a function that can only be evaluated."""

from deepzero_jax.estimators.boundary.function import Differentiable, Estimate, differentiable
from deepzero_jax.estimators.boundary.structure import cosine_basis, windows

__all__ = ["Differentiable", "Estimate", "cosine_basis", "differentiable", "windows"]
