"""What all defenses share, and the losses at which a probe of the box may look."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.applications.blackbox_defense.denoiser import AutoEncoder, DnCNN
from deepzero_jax.applications.blackbox_defense.stability import Classifier, Examples, Prepare
from deepzero_jax.training import Task, cross_entropy
from deepzero_jax.types import Key, PyTree


class Defense(NamedTuple):
    """What all methods share.

    Attributes:
      examples: images and the box's answers to them.
      box: the classifier, which can only be queried.
      twin: the same as a white box, for ``fo_ds`` alone; None where nobody has one.
      denoiser: the network in front of it.
      autoencoder: of ``zo_ae_ds``.
      sigma: standard deviation of the noise, in units of the pixels.
      batch_size: images a step.
      num_cosines: of ``zo_boundary``, kept along each side of an image; 0: all pixels.
    """

    examples: Examples
    box: Classifier
    twin: Classifier | None
    denoiser: DnCNN
    autoencoder: AutoEncoder
    sigma: float
    batch_size: int
    num_cosines: int = 0

    @property
    def cosines(self) -> tuple[int, ...] | None:
        """Of ``zo_boundary``, along the axes of an image; None: all pixels."""
        *sides, channels = self.examples.images.shape[1:]
        kept = (min(self.num_cosines, side) for side in sides)
        return (*kept, channels) if self.num_cosines else None

    def respond(self, params: PyTree, model_state: PyTree, images: jax.Array) -> jax.Array:
        """What the box answers to denoised images."""
        return self.box(denoise(self.denoiser, params, model_state, images, train=False)[0])


def denoise(
    denoiser: DnCNN, params: PyTree, model_state: PyTree, images: jax.Array, train: bool
) -> tuple[jax.Array, PyTree]:
    """Denoised images and, when training, the new running statistics."""
    variables = {"params": params, **model_state}
    if not train:
        return denoiser.apply(variables, images), model_state  # pyright: ignore[reportReturnType]
    cleaned, moved = denoiser.apply(variables, images, train=True, mutable=["batch_stats"])
    return cleaned, {**model_state, **moved}


def split_variables(variables: PyTree) -> tuple[PyTree, PyTree]:
    """Variables as parameters and the rest."""
    rest = dict(variables)
    return rest.pop("params"), rest


def loss_of_parameters(task: Task, key: Key) -> tuple[Callable[[PyTree], jax.Array], PyTree]:
    """The loss on a batch, and the parameters to start from."""
    init_key, batch_key = jax.random.split(key)
    params, model_state = task.init(init_key)
    return task.loss_on_a_batch(model_state, batch_key), params


def loss_of_an_image(
    task: Task, behind: Classifier, prepare: Prepare, key: Key
) -> tuple[Callable[[PyTree], jax.Array], PyTree]:
    """The loss of one image as a function of what the networks make of it."""
    init_key, batch_key = jax.random.split(key)
    _, noisy, labels, _ = task.batch(task.data, batch_key, jnp.int32(0))
    found = prepare(*task.init(init_key), noisy[:1])[0][0]
    return lambda x: cross_entropy(behind(x[None]), labels[:1])[0], found


def loss_at_the_box(
    defense: Defense, task: Task, key: Key
) -> tuple[Callable[[PyTree], jax.Array], PyTree]:
    """The loss of an image at the box's input, as the denoiser to start from gives it."""
    prepare = lambda p, s, x: denoise(defense.denoiser, p, s, x, train=False)
    return loss_of_an_image(task, defense.box, prepare, key)
