"""What a training loop must know of a problem; and image classification as such a task."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepzero_jax.data import (
    Dataset,
    balanced_indices,
    check_batch_size,
    crop_and_flip,
    epoch_indices,
)
from deepzero_jax.models import Model, init_model, predict, split_model_loss

PyTree = Any


class Task(NamedTuple):
    """A training problem.

    Attributes:
      init: ``(key) -> (params, model_state)``.
      loss: ``(params, model_state, *batch) -> (loss, (model_state, metrics))``.
      data: pytree of arrays, handed to ``batch`` and ``evaluate`` as an argument.
      batch: ``(data, key, step) -> batch``, a tuple; pure, so that a resumed run sees
        the same batches.
      evaluate: ``(params, model_state, data) -> {name: float}``.
      steps_per_epoch: steps that see every training example once.
      score: the name in ``evaluate``'s result by which runs are judged.
      higher_is_better: direction of ``score``.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    loss: Callable[..., Any]
    data: PyTree
    batch: Callable[[PyTree, jax.Array, jax.Array], tuple[Any, ...]]
    evaluate: Callable[[PyTree, PyTree, PyTree], dict[str, float]]
    steps_per_epoch: int
    score: str = "test_accuracy"
    higher_is_better: bool = True


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy and accuracy of logits [b, k] against integer labels [b]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return jnp.mean(losses), {"accuracy": accuracy}


def classification_task(
    model: Model, dataset: Dataset, batch_size: int, augment: bool = False
) -> Task:
    """Trains an image classifier by cross-entropy.

    The perturbed passes normalise with their own batch statistics; only the base pass
    updates the running ones.

    Args:
      model: a network of ``deepzero_jax.models``.
      dataset: images and labels in memory.
      batch_size: images a step.
      augment: random crop (padding 4) and flip.

    Raises:
      ValueError: a batch larger than the training set.
    """
    check_batch_size(batch_size, dataset)
    num_train = len(dataset.train_labels)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        return init_model(model, key, jnp.zeros((1, *dataset.train_images.shape[1:])))

    def batch(data: PyTree, key: jax.Array, step: jax.Array) -> tuple[Any, ...]:
        order_key, augment_key = jax.random.split(key)
        indices = epoch_indices(order_key, step, num_train, batch_size)
        images, labels = data["train_images"][indices], data["train_labels"][indices]
        if augment:
            images = crop_and_flip(jax.random.fold_in(augment_key, step), images)
        return dataset.normalise(images), labels

    return Task(
        init=init,
        loss=split_model_loss(model, cross_entropy),
        data={
            "train_images": jnp.asarray(dataset.train_images),
            "train_labels": jnp.asarray(dataset.train_labels),
            "test_images": jnp.asarray(dataset.test_images),
            "test_labels": jnp.asarray(dataset.test_labels),
        },
        batch=batch,
        evaluate=_classification_evaluation(model, dataset),
        steps_per_epoch=num_train // batch_size,
    )


def scoring_batch(dataset: Dataset, key: jax.Array, per_class: int) -> tuple[jax.Array, jax.Array]:
    """The images and labels on which pruning scores are computed: ``per_class`` of each class."""
    indices = balanced_indices(key, dataset.train_labels, dataset.num_classes, per_class)
    images = dataset.normalise(np.asarray(dataset.train_images)[indices])
    return images, jnp.asarray(np.asarray(dataset.train_labels)[indices])


def _classification_evaluation(
    model: Model, dataset: Dataset, chunk: int = 500
) -> Callable[[PyTree, PyTree, PyTree], dict[str, float]]:
    num_test = len(dataset.test_labels)
    chunk = min(chunk, num_test)

    @jax.jit
    def evaluate_chunk(
        params: PyTree, model_state: PyTree, data: PyTree, start: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        positions = start + jnp.arange(chunk)
        valid = positions < num_test
        indices = jnp.minimum(positions, num_test - 1)
        labels = data["test_labels"][indices]
        images = dataset.normalise(data["test_images"][indices])
        logits = predict(model, params, model_state, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        correct = jnp.argmax(logits, -1) == labels
        return jnp.sum(jnp.where(valid, losses, 0)), jnp.sum(correct & valid)

    def evaluate(params: PyTree, model_state: PyTree, data: PyTree) -> dict[str, float]:
        parts = [
            evaluate_chunk(params, model_state, data, jnp.int32(start))
            for start in range(0, num_test, chunk)
        ]
        return {
            "test_loss": float(sum(float(part[0]) for part in parts) / num_test),
            "test_accuracy": sum(int(part[1]) for part in parts) / num_test,
        }

    return evaluate
