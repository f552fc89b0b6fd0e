"""A data set in memory, and its batches as pure functions of the step."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.types import Array

# Of float32; what is smaller is 0 where XLA computes.
_SMALLEST, _LARGEST = (float(bound) for bound in (np.finfo("f4").tiny, np.finfo("f4").max))


class Dataset(NamedTuple):
    """Images and labels for training and test; n images of h × w pixels, c channels.

    Attributes:
      train_images: [n, h, w, c], uint8.
      train_labels: [n], int32.
      test_images: [m, h, w, c], uint8.
      test_labels: [m], int32.
      num_classes: labels are 0 … num_classes − 1.
      mean: [c], of the pixels scaled to [0, 1].
      std: [c], likewise.
    """

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: Array) -> jax.Array:
        """uint8 [b, h, w, c] → float32, scaled to [0, 1], mean subtracted, divided by std."""
        scaled = jnp.asarray(images, jnp.float32) / 255.0
        mean, std = (jnp.asarray(one, jnp.float32) for one in (self.mean, self.std))
        return (scaled - mean) / std


def check_dataset(dataset: object, name: str) -> None:
    """Raises ValueError unless a loader gave a ``Dataset`` that holds together."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"data set {name!r} must be a deepzero_jax.data.Dataset, got {type(dataset).__name__}"
        )
    if not isinstance(dataset.num_classes, int | np.integer):
        raise ValueError(
            f"data set {name!r}: num_classes must be an integer, got {dataset.num_classes!r}"
        )
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        if np.ndim(images) != 4 or np.shape(labels) != (len(images),) or len(images) == 0:
            raise ValueError(
                f"data set {name!r}: {part}_images must be [n, h, w, c] and {part}_labels [n], "
                f"got {np.shape(images)} and {np.shape(labels)}"
            )
        if 0 in np.shape(images):
            raise ValueError(
                f"data set {name!r}: {part}_images have the shape {np.shape(images)}, and no "
                "pixel; give [n, h, w, c] with h, w and c of at least 1"
            )
        if np.asarray(images).dtype != np.uint8:
            raise ValueError(
                f"data set {name!r}: {part}_images must be uint8, got {np.asarray(images).dtype}"
            )
        if not np.issubdtype(np.asarray(labels).dtype, np.integer):
            raise ValueError(
                f"data set {name!r}: {part}_labels must be integers, got {np.asarray(labels).dtype}"
            )
        least, most = int(np.min(labels)), int(np.max(labels))
        if least < 0 or most >= dataset.num_classes:
            raise ValueError(
                f"data set {name!r}: {part}_labels must lie in [0, {dataset.num_classes}), "
                f"got {least} to {most}"
            )
    shapes = [np.shape(images)[1:] for images in (dataset.train_images, dataset.test_images)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"data set {name!r}: images for training and for test must be alike, got {shapes[0]} "
            f"and {shapes[1]}"
        )
    _check_scale(dataset, name)


def _check_scale(dataset: Dataset, name: str) -> None:
    """Raises ValueError unless mean and std hold a number that can be used for each channel."""
    channels = np.shape(dataset.train_images)[3]
    for kind, values in (("mean", dataset.mean), ("std", dataset.std)):
        if np.shape(values) != (channels,):
            wanted = f"({', '.join('…' * channels)}{',' * (channels == 1)})"
            raise ValueError(
                f"data set {name!r}: {kind} must have an entry for each of the {channels} "
                f"channels, got {values!r}: give {wanted}"
            )
        if not all(_fits_float32(v) and (kind == "mean" or v >= _SMALLEST) for v in values):
            sign = "" if kind == "mean" else "positive "
            raise ValueError(
                f"data set {name!r}: {kind} must be finite {sign}numbers of float32, "
                f"got {tuple(values)!r}"
            )


def _fits_float32(value: object) -> bool:
    return isinstance(value, numbers.Real) and abs(float(value)) <= _LARGEST


def check_batch_size(batch_size: int, dataset: Dataset) -> None:
    """Raises ValueError unless a batch of that size can be drawn."""
    available = len(dataset.train_labels)
    if not 1 <= batch_size <= available:
        raise ValueError(
            f"batch_size must lie between 1 and the {available} training images, got {batch_size}"
        )


def epoch_indices(
    key: jax.Array, step: jax.Array | int, num_images: int, batch_size: int
) -> jax.Array:
    """Indices of the batch of a step: epochs in random order, the last short batch left out.

    The order of an epoch is never laid out, so that a step's cost does not grow with the
    training set.

    Args:
      key: a PRNG key, the same at every step.
      step: steps done so far.
      num_images: size of the training set.
      batch_size: b.

    Returns:
      int32 [b]. A pure function of its arguments: a resumed run needs no data position.
    """
    steps_per_epoch = num_images // batch_size
    epoch, batch = jnp.divmod(jnp.asarray(step, jnp.int32), steps_per_epoch)
    positions = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return _shuffled(jax.random.fold_in(key, epoch), positions, num_images)


def _shuffled(key: jax.Array, positions: jax.Array, size: int) -> jax.Array:
    """What stands at ``positions`` of a random order of 0 … size − 1.

    A Feistel network of eight random functions on the smallest square grid that holds all
    numbers (Luby and Rackoff 1988: from four on it looks random), walked until it lands on one
    of them (Black and Rogaway 2002).
    """
    side = math.isqrt(size - 1) + 1
    rounds = jax.random.randint(key, (8, side), 0, side)

    def permute(number: jax.Array) -> jax.Array:
        left, right = jnp.divmod(number, side)
        for shift in rounds:
            left, right = right, (left + shift[right]) % side
        return left * side + right

    return jax.lax.while_loop(
        lambda numbers: jnp.any(numbers >= size),
        lambda numbers: jnp.where(numbers < size, numbers, permute(numbers)),
        permute(positions),
    )


def balanced_indices(key: jax.Array, labels: Array, num_classes: int, per_class: int) -> np.ndarray:
    """Random indices with ``per_class`` images of every class, as ZO-GraSP's batch has them.

    Raises:
      ValueError: a class with fewer images than that.
    """
    order = np.asarray(jax.random.permutation(key, len(labels)))
    ordered = np.asarray(labels)[order]
    chosen = []
    for label in range(num_classes):
        found = order[ordered == label][:per_class]
        if len(found) < per_class:
            raise ValueError(f"per_class is {per_class}, but class {label} has {len(found)} images")
        chosen.append(found)
    return np.concatenate(chosen)
