"""Learning to correct a coarse solver that nobody can differentiate."""

from deepzero_jax.applications.solver_in_the_loop.cases import CASES, Case
from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig
from deepzero_jax.applications.solver_in_the_loop.methods import (
    METHODS,
    Correction,
    corrected,
    default_estimator,
    make_task,
)
from deepzero_jax.applications.solver_in_the_loop.program import (
    PROGRAM,
    build_correction,
    train_corrections,
)

__all__ = [
    "CASES",
    "METHODS",
    "PROGRAM",
    "Case",
    "Correction",
    "SolverConfig",
    "build_correction",
    "corrected",
    "default_estimator",
    "make_task",
    "train_corrections",
]
