"""A network and a data set that the package does not know; run, it writes the data."""

from pathlib import Path

import flax.linen as nn
import numpy as np

from deepzero_jax.data import Dataset

FILE = Path(__file__).parent / "stripes.npz"


class Stripes(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.LayerNorm()(nn.Dense(8)(images.reshape(len(images), -1))))
        return nn.Dense(self.num_classes)(hidden)


def make_model(num_classes):
    return Stripes(num_classes)


def load():
    """Bright rows, one for each class."""
    with np.load(FILE) as file:
        images, labels = file["images"], file["labels"]
    return Dataset(images[20:], labels[20:], images[:20], labels[:20], 3, (0.4,), (0.3,))


def save(path=FILE):
    rng = np.random.default_rng(0)
    labels = (np.arange(80) % 3).astype(np.int32)
    images = rng.integers(0, 90, (80, 6, 6, 1)).astype(np.uint8)
    images[np.arange(80), 2 * labels, :, 0] += 150
    np.savez(path, images=images, labels=labels)


if __name__ == "__main__":
    save()
