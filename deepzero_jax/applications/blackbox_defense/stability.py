"""Training a denoiser in front of a classifier: the stability objective and its trainers.

The defended classifier must answer to a noisy image as the bare one answers to the clean
image: cross-entropy of ``f(D(x + noise))`` against ``argmax f(x)``. The trainers differ in
how the gradient passes the box f, which can only be queried:

- DeepZero: differences of the denoiser's parameters; the box is asked at perturbed outputs.
- ZO-DS: random directions at the box's input, then back-propagation through the denoiser.
- ZO at the boundary: all pixels of the box's input, or cosines, or random directions, by
  ``differentiable``; back-propagation through the denoiser.
- ZO-AE-DS: an encoder behind the denoiser; coordinates of its code, through a frozen decoder.
- FO-DS: autodiff through a white-box twin of the box, the upper bound.

Source: Zhang et al., ICLR 2022 (ZO-AE-DS); DeepZero, section 6 (arXiv 2310.02025).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox import BlackBox, samples_asked
from deepzero_jax.data import epoch_indices
from deepzero_jax.estimators import Estimator, first_order, value_and_grad
from deepzero_jax.training import Task, cross_entropy, predicted_classes
from deepzero_jax.types import Key, Params, PyTree

# Images [b, h, w, c] in [0, 1] → logits [b, classes].
Classifier = Callable[[jax.Array], jax.Array]
Metrics = dict[str, jax.Array]
# (params, model_state, clean, noisy, labels, key) -> (loss, (model_state, metrics)).
NoisyLoss = Callable[..., tuple[jax.Array, tuple[PyTree, Metrics]]]
# (params, model_state, images) -> (prepared images, model_state).
Prepare = Callable[[Params, PyTree, jax.Array], tuple[jax.Array, PyTree]]
# (prepared images, clean images, labels, key) -> (loss, metrics).
Objective = Callable[[jax.Array, jax.Array, jax.Array, Key], tuple[jax.Array, Metrics]]


class Examples(NamedTuple):
    """What the denoiser learns from; n images for training, m held out.

    Attributes:
      images: uint8 [n, h, w, c].
      labels: int32 [n], the box's own answers to them.
      held_images: uint8 [m, h, w, c].
      held_labels: int32 [m], likewise.
    """

    images: np.ndarray
    labels: np.ndarray
    held_images: np.ndarray
    held_labels: np.ndarray


def scaled(images: jax.Array) -> jax.Array:
    """uint8 → float32 in [0, 1]."""
    return jnp.asarray(images, jnp.float32) / 255.0


def noisy_task(
    examples: Examples,
    batch_size: int,
    sigma: float,
    init: Callable[[Key], tuple[Params, PyTree]],
    loss: NoisyLoss,
    respond: Callable[[PyTree, PyTree, jax.Array], jax.Array],
    box: Classifier,
) -> Task:
    """A ``Task`` whose batches are ``(clean, noisy, labels, key)``.

    Args:
      examples: images and the box's answers.
      batch_size: images a step.
      sigma: standard deviation of the noise, in units of the pixels.
      init: ``(key) -> (params, model_state)``.
      loss: ``(params, model_state, clean, noisy, labels, key) -> (loss, (state, metrics))``.
      respond: ``(params, model_state, noisy) -> logits``, for the score ``stability``: how
        often the answer to a noisy held-out image is the box's answer to the clean one.
      box: that ``respond`` asks.
    """

    def batch(data: PyTree, key: Key, step: jax.Array) -> tuple[jax.Array, ...]:
        order_key, noise_key = jax.random.split(key)
        indices = epoch_indices(order_key, step, len(examples.images), batch_size)
        clean = scaled(data["images"][indices])
        noise_key, own_key = jax.random.split(jax.random.fold_in(noise_key, step))
        noisy = clean + sigma * jax.random.normal(noise_key, clean.shape)
        return clean, noisy, data["labels"][indices], own_key

    answer = jax.jit(respond)

    def evaluate(params: PyTree, model_state: PyTree, data: PyTree) -> dict[str, float]:
        clean = scaled(data["held_images"])
        noisy = clean + sigma * jax.random.normal(jax.random.key(0), clean.shape)
        logits = answer(params, model_state, noisy)
        return {"stability": float(jnp.mean(predicted_classes(logits) == data["held_labels"]))}

    def evaluation_samples(params: PyTree, model_state: PyTree, data: PyTree) -> int:
        return samples_asked(answer, params, model_state, scaled(data["held_images"]))

    return Task(
        init=init,
        loss=loss,
        data={name: jnp.asarray(value) for name, value in examples._asdict().items()},
        batch=batch,
        evaluate=evaluate,
        steps_per_epoch=len(examples.images) // batch_size,
        score="stability",
        evaluation_samples=evaluation_samples,
        boxes=(box,) if isinstance(box, BlackBox) else (),
    )


def prepared_loss(prepare: Prepare, objective: Objective) -> NoisyLoss:
    """The loss of a ``noisy_task``: an objective of what a network makes of the noisy images.

    Args:
      prepare: ``(params, model_state, images) -> (prepared, model_state)`` in training mode.
      objective: ``(prepared, clean, labels, key) -> (loss, metrics)``.
    """

    def loss(
        params: PyTree,
        model_state: PyTree,
        clean: jax.Array,
        noisy: jax.Array,
        labels: jax.Array,
        key: Key,
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        prepared, model_state = prepare(params, model_state, noisy)
        value, metrics = objective(prepared, clean, labels, key)
        return value, (model_state, metrics)

    return loss


def answers(classifier: Classifier) -> Objective:
    """Cross-entropy of a classifier's answers: for DeepZero (a box) and FO-DS (its twin)."""
    return lambda cleaned, clean, labels, key: cross_entropy(classifier(cleaned), labels)


def restoration(
    found: jax.Array, clean: jax.Array, labels: jax.Array, key: Key
) -> tuple[jax.Array, Metrics]:
    """Mean squared error to the clean image: pre-training that asks the box nothing."""
    del labels, key
    return jnp.mean(jnp.square(found - clean)), {}


def estimated_answers(behind: Classifier, estimator: Estimator) -> Objective:
    """The same by an ``estimated_head``: for ZO-DS and ZO-AE-DS."""
    head = estimated_head(behind, estimator)
    return lambda inputs, clean, labels, key: (head(inputs, labels, key), {})


def estimated_head(
    behind: Classifier, estimator: Estimator
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """A loss whose gradient with respect to its input is estimated, image by image.

    Args:
      behind: inputs [b, …] → logits [b, classes]; only queried.
      estimator: of the gradient of one image's loss.

    Returns:
      ``(inputs [b, …], labels [b], key) -> loss``, which autodiff can go through: backwards
      it hands on the estimate.

    **Cost**: the estimator's queries on the batch, at every evaluation.
    """

    def one(value: jax.Array, label: jax.Array) -> jax.Array:
        return cross_entropy(behind(value[None]), label[None])[0]

    vg = value_and_grad(one, estimator)

    def head(inputs: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        fixed = jax.lax.stop_gradient(inputs)
        keys = jax.random.split(key, len(inputs))
        values, grads = jax.vmap(lambda x, y, k: vg(x, y, key=k))(fixed, labels, keys)
        # Zero in value; its derivative is the estimate.
        return jnp.mean(values) + jnp.sum(grads * (inputs - fixed)) / len(inputs)

    return head


def counted_first_order(inner: Estimator, num_coordinates: int) -> Estimator:
    """Autodiff outside an estimated head, charged with the queries of the head."""
    queries = inner.num_queries(num_coordinates)
    return replace(first_order(), name=f"{inner.name} at the box", num_queries=lambda _: queries)
