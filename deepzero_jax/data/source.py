"""Where a data set comes from, by name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from deepzero_jax.data.cifar10 import load_cifar10
from deepzero_jax.data.dataset import Dataset, check_dataset
from deepzero_jax.data.digits import load_digits
from deepzero_jax.fields import OneOf, setting
from deepzero_jax.registry import Registry, call_with

DATASETS: Registry[Callable[..., Dataset]] = Registry(
    "data set", {"cifar10": load_cifar10, "digits": load_digits}, importable=True
)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A data set: one of ``DATASETS``, or your own as ``"module:function"``."""

    name: str = setting("cifar10", OneOf(DATASETS), "a known one, or module:function")
    dir: str | None = setting(
        None, meaning="tensorflow-datasets directory; none: $TFDS_DATA_DIR", local=True
    )
    archive: str | None = setting(None, meaning="the official CIFAR-10 archive instead", local=True)

    def load(self, cache: Path | None = None) -> Dataset:
        """Reads the data set into memory.

        Args:
          cache: folder for a decoded copy.

        Raises:
          FileNotFoundError: not there.
          ValueError: damaged, or an own loader that returns something else.
        """
        options = {"directory": self.dir, "archive": self.archive, "cache": cache}
        dataset = call_with(DATASETS[self.name], options)
        check_dataset(dataset, self.name)
        return dataset
