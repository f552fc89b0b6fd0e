"""Image classification as a training task."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepzero_jax.bars import tell
from deepzero_jax.blackbox import samples_asked
from deepzero_jax.data import (
    Dataset,
    balanced_indices,
    check_batch_size,
    crop_and_flip,
    epoch_indices,
)
from deepzero_jax.models import Model, init_model, model_loss, predict, split_model_loss
from deepzero_jax.training.task import Task
from deepzero_jax.types import Key, Params, PyTree


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy and accuracy of logits [b, k] against integer labels [b]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return jnp.mean(losses), {"accuracy": accuracy}


def classification_task(
    model: Model, dataset: Dataset, batch_size: int, augment: bool = False, cut: bool = False
) -> Task:
    """Trains an image classifier by cross-entropy.

    The perturbed passes normalise with their own batch statistics; only the base pass
    updates the running ones.

    Args:
      model: a Flax Linen module, or a pair of pure functions ``init`` and ``apply``.
      dataset: images and labels in memory.
      batch_size: images a step.
      augment: random crop (padding 4) and flip.
      cut: whether the loss is a ``SplitFunction``, as ``reuse="split"`` wants it; for the
        networks of ``deepzero_jax.models`` alone.

    Raises:
      ValueError: a batch larger than the training set, or a model that cannot be cut.
    """
    check_batch_size(batch_size, dataset)
    num_train = len(dataset.train_labels)

    def init(key: Key) -> tuple[Params, PyTree]:
        return init_model(model, key, jnp.zeros((1, *dataset.train_images.shape[1:])))

    def batch(data: PyTree, key: Key, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        order_key, augment_key = jax.random.split(key)
        indices = epoch_indices(order_key, step, num_train, batch_size)
        images, labels = data["train_images"][indices], data["train_labels"][indices]
        if augment:
            images = crop_and_flip(jax.random.fold_in(augment_key, step), images)
        return dataset.normalise(images), labels

    evaluate, evaluation_samples = _evaluation(model, dataset)
    return Task(
        init=init,
        loss=(split_model_loss if cut else model_loss)(model, cross_entropy),
        data={
            "train_images": jnp.asarray(dataset.train_images),
            "train_labels": jnp.asarray(dataset.train_labels),
            "test_images": jnp.asarray(dataset.test_images),
            "test_labels": jnp.asarray(dataset.test_labels),
        },
        batch=batch,
        evaluate=evaluate,
        steps_per_epoch=num_train // batch_size,
        evaluation_samples=evaluation_samples,
    )


def scoring_batch(dataset: Dataset, key: Key, per_class: int) -> tuple[jax.Array, jax.Array]:
    """The images and labels on which pruning scores are computed: ``per_class`` of each class."""
    indices = balanced_indices(key, dataset.train_labels, dataset.num_classes, per_class)
    images = dataset.normalise(np.asarray(dataset.train_images)[indices])
    return images, jnp.asarray(np.asarray(dataset.train_labels)[indices])


def _evaluation(
    model: Model, dataset: Dataset, chunk: int = 500
) -> tuple[
    Callable[[Params, PyTree, PyTree], dict[str, float]], Callable[[Params, PyTree, PyTree], int]
]:
    """How a classifier is evaluated, and the samples that this sends to black boxes."""
    num_test = len(dataset.test_labels)
    chunk = min(chunk, num_test)
    starts = range(0, num_test, chunk)

    @jax.jit
    def evaluate_chunk(
        params: Params, model_state: PyTree, data: PyTree, start: jax.Array
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

    def evaluate(params: Params, model_state: PyTree, data: PyTree) -> dict[str, float]:
        parts = []
        for start in starts:
            parts.append(evaluate_chunk(params, model_state, data, jnp.int32(start)))
            jax.block_until_ready(parts[-1])
            tell(1, len(starts), "parts")
        return {
            "test_loss": float(sum(float(part[0]) for part in parts) / num_test),
            "test_accuracy": sum(int(part[1]) for part in parts) / num_test,
        }

    def samples(params: Params, model_state: PyTree, data: PyTree) -> int:
        chunk_samples = samples_asked(evaluate_chunk, params, model_state, data, jnp.int32(0))
        return len(starts) * chunk_samples

    return evaluate, samples
