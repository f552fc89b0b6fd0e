"""Learning to correct a coarse solver that nobody can differentiate."""

from deepzero_jax.applications.solver_in_the_loop import kuramoto_sivashinsky, wake
from deepzero_jax.applications.solver_in_the_loop.cases import CASES, Case
from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig
from deepzero_jax.applications.solver_in_the_loop.correction import CorrectionNet
from deepzero_jax.applications.solver_in_the_loop.methods import (
    METHODS,
    Correction,
    corrected,
    default_estimator,
    make_method,
)
from deepzero_jax.applications.solver_in_the_loop.program import (
    PROGRAM,
    build_correction,
    train_corrections,
)
from deepzero_jax.applications.solver_in_the_loop.rollout import rollout, rollout_loss, windows
from deepzero_jax.applications.solver_in_the_loop.transport import Advection

__all__ = [
    "CASES",
    "METHODS",
    "PROGRAM",
    "Advection",
    "Case",
    "Correction",
    "CorrectionNet",
    "SolverConfig",
    "build_correction",
    "corrected",
    "default_estimator",
    "kuramoto_sivashinsky",
    "make_method",
    "rollout",
    "rollout_loss",
    "train_corrections",
    "wake",
    "windows",
]
