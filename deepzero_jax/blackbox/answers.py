"""What a host function answers: declared, converted, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deepzero_jax.blackbox.errors import WrongAnswerError
from deepzero_jax.types import PyTree


def from_json(content: Any) -> np.ndarray:
    """An array of lists as JSON has them; null, for a number or for a list of them, is NaN.

    JSON has no NaN: JavaScript, pandas and others write null for it.

    Example:
      >>> from_json([[1, 2], None, [3, None]]).tolist()
      [[1.0, 2.0], [nan, nan], [3.0, nan]]
    """
    try:
        array = np.asarray(content)
    except ValueError:  # lists of several lengths, or null among them
        return np.asarray(_filled(content))
    return np.asarray(_filled(content)) if array.dtype == object else array


def _filled(content: Any) -> Any:
    if not isinstance(content, list):
        return np.nan if content is None else content
    rows = [_filled(row) for row in content]
    shapes = {np.shape(row) for row in rows if isinstance(row, list)}
    if len(shapes) != 1:
        return rows
    lost = np.full(shapes.pop(), np.nan).tolist()
    return [lost if given is None else row for given, row in zip(content, rows, strict=True)]


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple | list) and all(isinstance(n, int | np.integer) for n in node)


def _is_declared(node: object) -> bool:
    return _is_shape(node) or isinstance(node, jax.ShapeDtypeStruct)


def _as_dtype(dtype: Any) -> np.dtype:
    try:
        if dtype is None:  # NumPy takes it for float64
            raise TypeError
        return np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"dtype must be one type, of every answer declared by its shape, got {dtype!r}; "
            "declare answers of several types by a jax.ShapeDtypeStruct each"
        ) from None


@dataclass(frozen=True)
class Outputs:
    """The declared answer to one sample.

    Attributes:
      shapes: of each leaf.
      dtypes: on the host, of each leaf.
      treedef: structure of the answer.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]
    treedef: PyTree

    @classmethod
    def declared(cls, output: PyTree, dtype: Any) -> "Outputs":
        """Reads a shape, a ``ShapeDtypeStruct`` or a tree of them.

        Args:
          output: of one sample.
          dtype: of leaves that are given by their shape.

        Raises:
          TypeError: a leaf that is neither, or a dtype that is none of real numbers.
        """
        leaves, treedef = jax.tree.flatten(output, is_leaf=_is_declared)
        for leaf in leaves:
            if not _is_declared(leaf):
                raise TypeError(
                    "output must be a shape, a jax.ShapeDtypeStruct or a tree of them, "
                    f"got {leaf!r}"
                )
        shapes = tuple(tuple(int(n) for n in getattr(leaf, "shape", leaf)) for leaf in leaves)
        dtypes = tuple(_as_dtype(getattr(leaf, "dtype", dtype)) for leaf in leaves)
        for kind in dtypes:
            if kind.kind not in "fiub" and not jax.numpy.issubdtype(kind, np.floating):
                raise TypeError(f"dtype must be real: floating, integer or boolean, got {kind}")
        return cls(shapes, dtypes, treedef)

    @property
    def is_double(self) -> bool:
        """Whether some answers are float64 on the host."""
        return any(dtype == np.float64 for dtype in self.dtypes)

    @property
    def all_floating(self) -> bool:
        """Whether every leaf may be NaN."""
        return all(jax.numpy.issubdtype(dtype, np.floating) for dtype in self.dtypes)

    def empty(self, count: int) -> list[np.ndarray]:
        """Room for the answers to ``count`` samples: zeros [count, *shape]."""
        return [
            np.zeros((count, *s), dtype) for s, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]

    def converted(self, answer: PyTree, count: int | None) -> tuple[list[np.ndarray], np.ndarray]:
        """The answers to ``count`` samples (None: to one, without a batch axis), and their faults.

        Returns:
          Leaves [count, *shape] in the declared dtypes, and booleans [count]: true where an
          answer is usable, every number of it finite after the conversion.

        Raises:
          WrongAnswerError: another structure, shape or kind of numbers.
        """
        leaves = self._leaves(answer)
        single = count is None
        usable = np.ones(1 if single else count, bool)
        converted = []
        for leaf, shape, dtype in zip(leaves, self.shapes, self.dtypes, strict=True):
            array = _as_array(leaf)
            expected = shape if single else (count, *shape)
            if array.shape == expected[: len(expected) - len(shape)] and _is_nan(array):
                # A sample without an answer, which says nothing of its shape.
                array = np.broadcast_to(array.reshape(array.shape + (1,) * len(shape)), expected)
            if array.shape != expected:
                raise WrongAnswerError(f"answers must have shape {expected}, got {array.shape}")
            array = array[None] if single else array
            values, sound = _cast(array, dtype)
            usable &= sound.reshape(len(usable), -1).all(axis=1)
            converted.append(values)
        return converted, usable

    def _leaves(self, answer: PyTree) -> Sequence[Any]:
        if jax.tree_util.treedef_is_leaf(self.treedef):
            return [answer]
        try:
            return self.treedef.flatten_up_to(answer)
        except (ValueError, TypeError, KeyError) as error:
            raise WrongAnswerError(
                f"answers must have the structure {self.treedef}, got {type(answer).__name__}: "
                f"{error}"
            ) from None


def _as_array(leaf: Any) -> np.ndarray:
    try:
        array = np.asarray(leaf)
    except Exception as error:  # of whatever the host function answered with
        raise WrongAnswerError(f"answers must be an array of numbers: {error}") from None
    if array.dtype.kind not in "fiub" and not jax.numpy.issubdtype(array.dtype, np.floating):
        raise WrongAnswerError(f"answers must be real numbers, got dtype {array.dtype}")
    return array


def _is_nan(array: np.ndarray) -> bool:
    return jax.numpy.issubdtype(array.dtype, np.floating) and bool(np.isnan(array).all())


def _cast(array: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """An array in a dtype, and where it could be taken over."""
    with np.errstate(all="ignore"):
        values = array.astype(dtype)
        if jax.numpy.issubdtype(dtype, np.floating):
            return values, np.isfinite(values)
        if jax.numpy.issubdtype(array.dtype, np.floating):
            sound = np.isfinite(array)
            if np.any(sound & (array != np.trunc(array))):
                raise WrongAnswerError(f"answers must be whole numbers for dtype {dtype}")
        exact = np.asarray(values == array)
    if not np.all(exact | ~np.isfinite(array.astype(np.float64))):
        raise WrongAnswerError(f"answers must lie in the range of {dtype}")
    return values, np.isfinite(array.astype(np.float64))
