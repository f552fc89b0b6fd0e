"""The commands ``deepzero-train`` and ``deepzero-prune``: which program runs which record."""

from collections.abc import Sequence

from deepzero_jax import programs
from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.classification.config import Config
from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig

PROGRAMS: programs.Programs = {
    Config: "deepzero_jax.applications.classification.program",
    DefenseConfig: "deepzero_jax.applications.blackbox_defense.program",
    SolverConfig: "deepzero_jax.applications.solver_in_the_loop.program",
}


def train(arguments: Sequence[str] | None = None, name: str = "deepzero-train") -> int:
    """Trains a record; see ``programs.train``."""
    return programs.train(PROGRAMS, arguments, name)


def prune(arguments: Sequence[str] | None = None, name: str = "deepzero-prune") -> int:
    """Computes the layer-wise pruning ratios of a record; see ``programs.prune``."""
    return programs.prune(PROGRAMS, arguments, name)
