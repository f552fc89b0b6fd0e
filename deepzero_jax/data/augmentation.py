"""Random changes of images, inside jit, from a key."""

import jax
import jax.numpy as jnp
from jax import lax


def random_crop(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Pads images [b, h, w, c] with zeros on every side and crops each at a random offset.

    Zeros are meant in the units of ``images``: crop before normalising to pad in black.
    """
    batch, height, width, channels = images.shape
    spread = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, spread)
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each of the images [b, h, w, c] left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1, :], images)


def crop_and_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """The augmentation of the paper: random crop with padding 4, then random flip."""
    crop_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_crop(crop_key, images))
