"""Train deep networks from forward evaluations alone."""

# ruff: noqa: E402 - the compiler reads its flags when JAX first computes
from deepzero_jax.platform import prepare_cpu

prepare_cpu()

from deepzero_jax.blackbox import black_box
from deepzero_jax.coordinates import sample_coordinates
from deepzero_jax.difference import difference, register_rule
from deepzero_jax.estimators import (
    Estimator,
    cge,
    coordinate_costs,
    first_order,
    gradient_quality,
    num_queries,
    rge,
    sharded,
    value_and_grad,
)
from deepzero_jax.pruning import grasp_scores, layer_ratios, random_scores, zo_grasp_scores
from deepzero_jax.sampling import sampling_rates

__version__ = "0.1.0"

__all__ = [
    "Estimator",
    "black_box",
    "cge",
    "coordinate_costs",
    "difference",
    "first_order",
    "gradient_quality",
    "grasp_scores",
    "layer_ratios",
    "num_queries",
    "random_scores",
    "register_rule",
    "rge",
    "sample_coordinates",
    "sampling_rates",
    "sharded",
    "value_and_grad",
    "zo_grasp_scores",
]
