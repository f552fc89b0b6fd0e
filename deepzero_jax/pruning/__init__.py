"""Pruning at initialisation: scores, layer-wise ratios, masks, and their files."""

from deepzero_jax.pruning.masks import prune_params, sparse_updates
from deepzero_jax.pruning.ratios import Ranking, layer_ratios, prune_mask
from deepzero_jax.pruning.report import (
    LayerRatios,
    in_layer_order,
    load_mask,
    load_ratios,
    plot_ratios,
    ratios_table,
    save_mask,
)
from deepzero_jax.pruning.scores import (
    SCORES,
    Scoring,
    Variant,
    grasp_scores,
    random_scores,
    zo_grasp_scores,
)

__all__ = [
    "SCORES",
    "LayerRatios",
    "Ranking",
    "Scoring",
    "Variant",
    "grasp_scores",
    "in_layer_order",
    "layer_ratios",
    "load_mask",
    "load_ratios",
    "plot_ratios",
    "prune_mask",
    "prune_params",
    "random_scores",
    "ratios_table",
    "save_mask",
    "sparse_updates",
    "zo_grasp_scores",
]
