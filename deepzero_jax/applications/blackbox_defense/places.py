"""Where a step of each defense asks the box, and what it asks there."""

import math

import jax
import jax.numpy as jnp

from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.methods import Defense
from deepzero_jax.coordinates import kept_per_leaf, leaf_paths, num_coordinates
from deepzero_jax.training import Place, where_to_ask


def places_of(config: DefenseConfig, defense: Defense) -> str:
    """The table "where to ask": what a step of each method asks of the box, and elsewhere could."""
    training, shape = config.training, defense.examples.images.shape[1:]
    variables = jax.eval_shape(defense.denoiser.init, jax.random.key(0), jnp.zeros((1, *shape)))
    params, pixels = variables["params"], math.prod(shape)
    pruned = {p: 1 - training.fraction for p in leaf_paths(params) if p.endswith("kernel")}
    kept = sum(kept_per_leaf(params, pruned).values())
    cosines, directions = training.boundary_cosines, training.boundary_directions
    numbers = shape[2] * min(cosines, shape[0]) * min(cosines, shape[1]) if cosines else pixels
    boundary = Place("cosines of an image" if cosines else "pixels of an image", numbers)
    if directions:
        boundary = boundary._replace(num_moved=directions, kind="directions")
    rows = [
        Place("parameters", num_coordinates(params)),
        Place("parameters, drawn", num_coordinates(params), kept, method="deepzero"),
        Place("code of an image", config.autoencoder.latent, method="zo_ae_ds"),
        Place("pixels of an image", pixels, training.num_directions, "directions", "zo_ds"),
        boundary._replace(method="zo_boundary"),
    ]
    asked = [row if row.method in training.methods else row._replace(method="") for row in rows]
    return where_to_ask(asked, training.batch_size)
