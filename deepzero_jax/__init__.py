"""Train deep networks from forward evaluations alone."""

# ruff: noqa: E402 - the compiler reads its flags when JAX first computes
from deepzero_jax.platform import prepare_cpu

prepare_cpu()

from importlib import import_module
from types import ModuleType

from deepzero_jax import blackbox, pruning, sampling, sharding
from deepzero_jax.blackbox import BlackBoxError, black_box
from deepzero_jax.coordinates import leaf_paths, masked_coordinates, sample_coordinates
from deepzero_jax.difference import deregister_rule, difference, register_rule
from deepzero_jax.estimators import (
    Estimator,
    Loss,
    Record,
    ask,
    cge,
    coordinate_costs,
    cosine_basis,
    differentiable,
    first_order,
    fit_surrogate,
    gradient_quality,
    num_queries,
    probe_smoothing,
    rge,
    sharded,
    value_and_grad,
    windows,
)
from deepzero_jax.pruning import grasp_scores, layer_ratios, random_scores, zo_grasp_scores
from deepzero_jax.sampling import sampling_rates

__version__ = "0.2.0"

# Loaded when they are first asked for: they bring checkpoints, bars and pictures with them.
_LAZY = ("applications", "data", "models", "programs", "training")

__all__ = [
    "BlackBoxError",
    "Estimator",
    "Loss",
    "Record",
    "ask",
    "black_box",
    "blackbox",
    "cge",
    "coordinate_costs",
    "cosine_basis",
    "deregister_rule",
    "difference",
    "differentiable",
    "first_order",
    "fit_surrogate",
    "gradient_quality",
    "grasp_scores",
    "layer_ratios",
    "leaf_paths",
    "masked_coordinates",
    "num_queries",
    "probe_smoothing",
    "pruning",
    "random_scores",
    "register_rule",
    "rge",
    "sample_coordinates",
    "sampling",
    "sampling_rates",
    "sharded",
    "sharding",
    "value_and_grad",
    "windows",
    "zo_grasp_scores",
]


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return import_module(f"deepzero_jax.{name}")
    raise AttributeError(f"module 'deepzero_jax' has no attribute {name!r}")
