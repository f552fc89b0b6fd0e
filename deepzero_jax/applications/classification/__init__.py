"""Image classification: the paper's protocol, and what goes past it."""

from deepzero_jax.applications.classification.config import Config
from deepzero_jax.applications.classification.experiment import (
    Experiment,
    build,
    optimizer_and_schedule,
    with_probed_smoothing,
)
from deepzero_jax.applications.classification.outlook import plan_run
from deepzero_jax.applications.classification.program import (
    PROGRAM,
    Prepared,
    prepare_run,
    train_prepared,
)
from deepzero_jax.applications.classification.ratios import find_ratios
from deepzero_jax.applications.classification.sampling import choose_sampler, experiment_costs
from deepzero_jax.applications.classification.scoring import compute_scores

__all__ = [
    "PROGRAM",
    "Config",
    "Experiment",
    "Prepared",
    "build",
    "choose_sampler",
    "compute_scores",
    "experiment_costs",
    "find_ratios",
    "optimizer_and_schedule",
    "plan_run",
    "prepare_run",
    "train_prepared",
    "with_probed_smoothing",
]
