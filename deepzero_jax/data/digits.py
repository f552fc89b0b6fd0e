"""scikit-learn's bundled digits: 1,797 grey images of 8 × 8 pixels; no download."""

from typing import Any

import numpy as np

from deepzero_jax.data.dataset import Dataset

_NUM_TEST = 360


def load_digits() -> Dataset:
    """Loads the digits: 1,437 for training, 360 for test, the split fixed and stratified."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    bunch: Any = load()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    parts: Any = train_test_split(
        images, labels, test_size=_NUM_TEST, random_state=0, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = parts
    scaled = train_images / 255.0
    return Dataset(
        train_images,
        train_labels,
        test_images,
        test_labels,
        num_classes=10,
        mean=(float(scaled.mean()),),
        std=(float(scaled.std()),),
    )
