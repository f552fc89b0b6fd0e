"""Values that are part of a function, compared so that JAX finds what it has compiled for them."""

from dataclasses import fields
from typing import Any

import numpy as np
import scipy.sparse


class Fixed:
    """An array that compares by what is in it.

    Args:
      array: that nobody changes.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __eq__(self, other: object) -> bool:
        """Whether shape, type and all numbers are the same."""
        if not isinstance(other, Fixed):
            return NotImplemented
        one, two = self._array, other._array
        return one is two or (one.dtype == two.dtype and np.array_equal(one, two))

    def __hash__(self) -> int:
        """By shape and type, as numbers are compared where these are the same."""
        return hash((self._array.shape, self._array.dtype))


def identity(of: Any) -> tuple[Any, ...]:
    """What a dataclass is made of, to be compared and hashed."""
    return type(of), *(_comparable(getattr(of, field.name)) for field in fields(of))


def _comparable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return Fixed(value)
    if scipy.sparse.issparse(value):
        parts = (np.asarray(part) for part in (value.indptr, value.indices))
        return value.shape, *map(Fixed, parts)
    return value
