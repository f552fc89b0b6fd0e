"""Pruning at initialisation: scores, layer-wise ratios, masks."""

from deepzero_jax.pruning.masks import prune_params, sparse_updates
from deepzero_jax.pruning.ratios import layer_ratios, prune_mask
from deepzero_jax.pruning.scores import grasp_scores, random_scores, zo_grasp_scores

__all__ = [
    "grasp_scores",
    "layer_ratios",
    "prune_mask",
    "prune_params",
    "random_scores",
    "sparse_updates",
    "zo_grasp_scores",
]
