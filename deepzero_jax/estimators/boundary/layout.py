"""The numbers at a boundary that a backward pass moves, as one vector for each unit.

A unit is what is differentiated by itself: a sample, or, with ``samples=False``, the whole.
Shapes here: u units, m numbers of a unit that move.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.types import Array, PyTree


class Start(NamedTuple):
    """Where a backward pass starts, as a pytree.

    Attributes:
      leaves: of the inputs.
      steps: of the moving leaves.
      kept: by the forward pass: the answers of a box, or the values of a traced function.
      cotangents: of the floating-point outputs.
      drawn: of ``Moves``, arrays or None.
    """

    leaves: Sequence[jax.Array]
    steps: Sequence[jax.Array]
    kept: Any
    cotangents: Sequence[jax.Array]
    drawn: PyTree


@dataclass(frozen=True)
class Layout:
    """Where the moving numbers stand in the leaves of the inputs.

    Attributes:
      shapes: of all leaves.
      dtypes: of all leaves.
      moving: positions of the leaves that move, all floating-point.
      samples: whether the first axis of every leaf is one of units.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]
    moving: tuple[int, ...]
    samples: bool

    @property
    def num_units(self) -> int:
        """u, the number of units."""
        return self.shapes[0][0] if self.samples else 1

    @property
    def wide(self) -> np.dtype:
        """Of vectors of the moving numbers and of slopes: float16 and bfloat16 hold neither."""
        return wide_dtype(np.dtype(jax.numpy.result_type(*(self.dtypes[i] for i in self.moving))))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of a unit in each moving leaf."""
        return tuple(math.prod(self.unit_shape(position)) for position in self.moving)

    @property
    def size(self) -> int:
        """m, the moving numbers of a unit."""
        return sum(self.sizes)

    def unit_shape(self, position: int) -> tuple[int, ...]:
        """Of a leaf in one unit."""
        return self.shapes[position][1:] if self.samples else self.shapes[position]

    def split(self, vectors: Array) -> list[Array]:
        """Vectors [..., u, m] as moving leaves, each with the same axes in front."""
        front, found, start = vectors.shape[:-2], [], 0
        for position, size in zip(self.moving, self.sizes, strict=True):
            part = vectors[..., start : start + size]
            units = vectors.shape[-2:-1] if self.samples else ()
            found.append(part.reshape((*front, *units, *self.unit_shape(position))))
            start += size
        return found

    def join(self, leaves: Sequence[Array], xp: object = jax.numpy) -> Array:
        """Moving leaves, with any axes in front, as vectors [..., u, m]: undoes ``split``."""
        parts = []
        for leaf, position, size in zip(leaves, self.moving, self.sizes, strict=True):
            front = leaf.shape[: leaf.ndim - len(self.shapes[position])]
            parts.append(leaf.reshape((*front, self.num_units, size)))
        return xp.concatenate(parts, axis=-1)  # pyright: ignore[reportAttributeAccessIssue]

    def per_number(self, steps: Sequence[Array | float], xp: object = jax.numpy) -> Array:
        """One number for each moving leaf, as a vector [m]."""
        parts = [
            xp.broadcast_to(xp.asarray(step), (size,))  # pyright: ignore[reportAttributeAccessIssue]
            for step, size in zip(steps, self.sizes, strict=True)
        ]
        return xp.concatenate(parts)  # pyright: ignore[reportAttributeAccessIssue]

    def positions_in(self, floating: Sequence[int]) -> np.ndarray:
        """Where the moving numbers stand among those of all floating-point leaves: int [m]."""
        whole = Layout(self.shapes, self.dtypes, tuple(floating), self.samples)
        ends = np.cumsum((0, *whole.sizes))
        spans = [
            np.arange(ends[i], ends[i + 1])
            for i, position in enumerate(floating)
            if position in self.moving
        ]
        return np.concatenate(spans) if spans else np.zeros(0, int)
