"""A denoiser in front of a classifier that can only be queried, and its certificates."""

from deepzero_jax.applications.blackbox_defense.certification import Certification
from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.methods import (
    METHODS,
    Defense,
    Method,
    Start,
    default_estimator,
    make_method,
)
from deepzero_jax.applications.blackbox_defense.program import (
    PROGRAM,
    prepare_defense,
    pretrain,
    stages_of,
    train_defenses,
)

__all__ = [
    "METHODS",
    "PROGRAM",
    "Certification",
    "Defense",
    "DefenseConfig",
    "Method",
    "Start",
    "default_estimator",
    "make_method",
    "prepare_defense",
    "pretrain",
    "stages_of",
    "train_defenses",
]
