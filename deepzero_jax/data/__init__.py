"""Data sets in memory, their batches and their augmentation."""

from deepzero_jax.data.augmentation import crop_and_flip, random_crop, random_flip
from deepzero_jax.data.cifar10 import load_cifar10
from deepzero_jax.data.dataset import Dataset, balanced_indices, check_batch_size, epoch_indices
from deepzero_jax.data.digits import load_digits
from deepzero_jax.data.source import DATASETS, DataSource

__all__ = [
    "DATASETS",
    "DataSource",
    "Dataset",
    "balanced_indices",
    "check_batch_size",
    "crop_and_flip",
    "epoch_indices",
    "load_cifar10",
    "load_digits",
    "random_crop",
    "random_flip",
]
