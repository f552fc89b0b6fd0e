"""What is trained before any method: the denoiser and the auto-encoder.

No step asks the box; evaluations do, for the stability of its answers.
"""

import jax
import jax.numpy as jnp

from deepzero_jax.applications.blackbox_defense.defense import Defense, denoise, split_variables
from deepzero_jax.applications.blackbox_defense.stability import (
    noisy_task,
    prepared_loss,
    restoration,
)
from deepzero_jax.training import Task
from deepzero_jax.types import Params, PyTree


def denoiser_pretraining(defense: Defense, key: jax.Array) -> Task:
    """Mean squared error of the denoised image to the clean one; no step asks the box."""
    denoiser = defense.denoiser
    shape = (1, *defense.examples.images.shape[1:])

    def prepare(params: Params, model_state: PyTree, images: jax.Array) -> tuple[jax.Array, PyTree]:
        return denoise(denoiser, params, model_state, images, train=True)

    return noisy_task(
        defense.examples,
        defense.batch_size,
        defense.sigma,
        lambda _: split_variables(denoiser.init(key, jnp.zeros(shape))),
        prepared_loss(prepare, restoration),
        defense.respond,
        defense.box,
    )


def autoencoder_pretraining(defense: Defense, key: jax.Array) -> Task:
    """Mean squared error of clean images through the bottleneck; no step asks the box."""
    network = defense.autoencoder
    shape = (1, *defense.examples.images.shape[1:])

    def prepare(params: Params, model_state: PyTree, images: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.asarray(network.apply({"params": params}, images)), model_state

    def respond(params: PyTree, model_state: PyTree, images: jax.Array) -> jax.Array:
        return defense.box(prepare(params, model_state, images)[0])

    return noisy_task(
        defense.examples,
        defense.batch_size,
        0.0,
        lambda _: split_variables(network.init(key, jnp.zeros(shape))),
        prepared_loss(prepare, restoration),
        respond,
        defense.box,
    )
