"""Where a step of each defense asks the box, and what it asks there."""

import math

import jax
import jax.numpy as jnp

from deepzero_jax.applications.blackbox_defense.budgets import pruned
from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.methods import Defense
from deepzero_jax.coordinates import kept_per_leaf, num_coordinates
from deepzero_jax.training import Place, where_to_ask


def places_of(config: DefenseConfig, defense: Defense) -> str:
    """The table "where to ask": what a step of each method asks of the box, and elsewhere could."""
    training, shape = config.training, defense.examples.images.shape[1:]
    variables = jax.eval_shape(defense.denoiser.init, jax.random.key(0), jnp.zeros((1, *shape)))
    params, pixels = variables["params"], math.prod(shape)
    kept = sum(kept_per_leaf(params, pruned(config, params)).values())
    moved = "cosines of an image" if defense.cosines else "pixels of an image"
    boundary = Place(moved, math.prod(defense.cosines or shape), method="zo_boundary")
    if training.boundary_directions:
        boundary = boundary._replace(num_moved=training.boundary_directions, kind="directions")
    rows = [
        Place("parameters", num_coordinates(params)),
        Place("parameters, drawn", num_coordinates(params), kept, method="deepzero"),
        Place("code of an image", config.autoencoder.latent, method="zo_ae_ds"),
        Place("pixels of an image", pixels, training.num_directions, "directions", "zo_ds"),
        boundary,
    ]
    return where_to_ask(rows, training.batch_size, training.methods)
