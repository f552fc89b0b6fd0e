"""Image classification as a training task."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepzero_jax.bars import tell
from deepzero_jax.blackbox import samples_asked
from deepzero_jax.coordinates import leaf_paths
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


def predicted_classes(logits: jax.Array) -> jax.Array:
    """The class of the largest of logits [..., k], int [...]; -1 where any of them is NaN.

    A black box that gave no answer leaves NaN, of which ``argmax`` would make class 0.

    Example:
      >>> predicted_classes(jnp.array([[0.0, 2.0], [jnp.nan, jnp.nan]])).tolist()
      [1, -1]
    """
    return jnp.where(jnp.any(jnp.isnan(logits), -1), -1, jnp.argmax(logits, -1))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy and accuracy of logits [b, k] against integer labels [b].

    Logits that are NaN are wrong, whatever the label.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    accuracy = jnp.mean(predicted_classes(logits) == labels)
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
      ValueError: a batch larger than the training set, or a model that cannot be cut; from
        ``init``, a model whose outputs are no logits of the data set's classes.
    """
    check_batch_size(batch_size, dataset)
    num_train = len(dataset.train_labels)

    def init(key: Key) -> tuple[Params, PyTree]:
        shape = np.shape(dataset.train_images)[1:]
        params, model_state = init_model(model, key, jnp.zeros((1, *shape)))
        for tree in (params, model_state):
            leaf_paths(tree)  # refuses two of one path, before anything is paid for them
        images = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
        found = jax.eval_shape(partial(predict, model), params, model_state, images)
        _check_logits(found, batch_size, dataset.num_classes)
        return params, model_state

    def batch(data: PyTree, key: Key, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        order_key, augment_key = jax.random.split(key)
        indices = epoch_indices(order_key, step, num_train, batch_size)
        images, labels = data["train_images"][indices], data["train_labels"][indices]
        if augment:
            images = crop_and_flip(jax.random.fold_in(augment_key, step), images)
        return dataset.normalise(images), labels

    evaluation = _Evaluation(model, dataset)
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
        evaluate=evaluation.evaluate,
        steps_per_epoch=num_train // batch_size,
        evaluation_samples=evaluation.num_samples,
    )


def _check_logits(found: PyTree, num_images: int, num_classes: int) -> None:
    """Raises ValueError unless a model gives logits [num_images, at least num_classes]."""
    is_array = isinstance(found, jax.ShapeDtypeStruct)
    if is_array and jnp.issubdtype(found.dtype, jnp.floating) and len(found.shape) == 2:
        rows, outputs = found.shape
        if rows == num_images and outputs >= num_classes:
            return
    got = f"{found.dtype}{list(found.shape)}" if is_array else type(found).__name__
    raise ValueError(
        "the model must give logits [images, classes], here "
        f"float32[{num_images}, {num_classes}] for a batch of the data set, got {got}: "
        "give its last layer an output for each class, and each image a row"
    )


def scoring_batch(dataset: Dataset, key: Key, per_class: int) -> tuple[jax.Array, jax.Array]:
    """The images and labels on which pruning scores are computed: ``per_class`` of each class."""
    indices = balanced_indices(key, dataset.train_labels, dataset.num_classes, per_class)
    images = dataset.normalise(np.asarray(dataset.train_images)[indices])
    return images, jnp.asarray(np.asarray(dataset.train_labels)[indices])


class _Evaluation:
    """How a classifier is evaluated, and the samples that this sends to black boxes.

    In parts of one length, so that one program is compiled; the last is filled up with images that
    do not count. A black box is not asked for these: there the last part has its own length.

    Args:
      model: of the classifier.
      dataset: whose test images it is shown.
      most: images of a part.
    """

    def __init__(self, model: Model, dataset: Dataset, most: int = 500) -> None:
        self._model, self._normalise = model, dataset.normalise
        self._num_test = len(dataset.test_labels)
        self._length = -(-self._num_test // -(-self._num_test // most))
        self._starts = range(0, self._num_test, self._length)
        self._part = jax.jit(self._evaluate_part, static_argnames="length")
        self._asks: bool | None = None

    def evaluate(self, params: Params, model_state: PyTree, data: PyTree) -> dict[str, float]:
        """Loss and accuracy on all test images; one without an answer counts as wrong."""
        parts = []
        lengths = self._lengths(params, model_state, data)
        for start, length in zip(self._starts, lengths, strict=True):
            parts.append(self._part(params, model_state, data, jnp.int32(start), length=length))
            jax.block_until_ready(parts[-1])
            tell(1, len(lengths), "parts")
        return {
            "test_loss": float(sum(float(part[0]) for part in parts) / self._num_test),
            "test_accuracy": sum(int(part[1]) for part in parts) / self._num_test,
        }

    def num_samples(self, params: Params, model_state: PyTree, data: PyTree) -> int:
        """What ``evaluate`` sends to black boxes; nothing is asked."""
        lengths = Counter(self._lengths(params, model_state, data))
        asked = partial(self._asked, params, model_state, data)
        return sum(count * asked(length) for length, count in lengths.items())

    def _lengths(self, params: Params, model_state: PyTree, data: PyTree) -> list[int]:
        lengths = [self._length] * len(self._starts)
        rest = self._num_test - self._starts[-1]
        if rest < self._length:
            if self._asks is None:
                self._asks = self._asked(params, model_state, data, rest) > 0
            if self._asks:
                lengths[-1] = rest
        return lengths

    def _asked(self, params: Params, model_state: PyTree, data: PyTree, length: int) -> int:
        part = partial(self._part, length=length)
        return samples_asked(part, params, model_state, data, jnp.int32(0))

    def _evaluate_part(
        self, params: Params, model_state: PyTree, data: PyTree, start: jax.Array, length: int
    ) -> tuple[jax.Array, jax.Array]:
        """Sum of the losses, and how many are right."""
        positions = start + jnp.arange(length)
        valid = positions < self._num_test
        indices = jnp.minimum(positions, self._num_test - 1)
        labels = data["test_labels"][indices]
        images = self._normalise(data["test_images"][indices])
        logits = predict(self._model, params, model_state, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        correct = predicted_classes(logits) == labels
        return jnp.sum(jnp.where(valid, losses, 0)), jnp.sum(correct & valid)
