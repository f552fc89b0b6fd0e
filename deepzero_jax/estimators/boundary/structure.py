"""Which inputs of a function reach which outputs, and which may therefore move together."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse

# Boolean [outputs, inputs] of one unit, dense or sparse; or outputs like inputs, one to one.
Structure = Any


def as_pattern(structure: Structure, num_outputs: int, num_inputs: int) -> scipy.sparse.csc_array:
    """A structure as a sparse boolean pattern [outputs, inputs].

    Raises:
      ValueError: a pattern of another shape, or an unknown word.
    """
    if isinstance(structure, str):
        if structure != "elementwise":
            raise ValueError(
                'structure must be "elementwise", or a boolean pattern [outputs, inputs] of one '
                f"sample, got {structure!r}"
            )
        if num_outputs != num_inputs:
            raise ValueError(
                'structure="elementwise" needs as many outputs as inputs, got '
                f"{num_outputs} and {num_inputs} in a sample"
            )
        return scipy.sparse.csc_array(scipy.sparse.eye_array(num_inputs, dtype=bool))
    pattern = scipy.sparse.csc_array(structure, dtype=bool, copy=True)
    if pattern.shape != (num_outputs, num_inputs):
        raise ValueError(
            "structure must be a boolean pattern [outputs, inputs] of one sample, "
            f"{(num_outputs, num_inputs)}, got shape {pattern.shape}"
        )
    pattern.eliminate_zeros()
    return pattern


def colours(pattern: scipy.sparse.csc_array) -> np.ndarray:
    """Greedy colouring: inputs of one colour share no output.

    Args:
      pattern: boolean [outputs, inputs].

    Returns:
      int [inputs]; −1 for an input that reaches no output.

    Example:
      >>> import scipy.sparse
      >>> colours(scipy.sparse.csc_array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]])).tolist()
      [1, 0, 1, -1]
    """
    rows = scipy.sparse.csr_array(pattern)
    starts, reaches = np.asarray(pattern.indptr), np.asarray(pattern.indices)
    reached = np.diff(starts)
    found = np.full(len(np.asarray(pattern.indptr)) - 1, -1)
    # Inputs that reach much first, as Welsh and Powell advise.
    for column in np.argsort(-reached, kind="stable"):
        if not reached[column]:
            continue
        outputs = reaches[starts[column] : starts[column + 1]]
        spans = [rows.indices[rows.indptr[o] : rows.indptr[o + 1]] for o in outputs]
        taken = set(found[np.concatenate(spans)].tolist())
        found[column] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
    return found


def owners(pattern: scipy.sparse.csc_array, found: np.ndarray, num_outputs: int) -> np.ndarray:
    """Which input of a colour reaches an output: int [colours, outputs], −1 for none."""
    rows, columns = pattern.nonzero()
    result = np.full((found.max(initial=-1) + 1, num_outputs), -1)
    result[found[columns], rows] = columns
    return result


def windows(
    shape: Sequence[int],
    radius: int,
    *,
    num_inputs: int = 1,
    num_outputs: int = 1,
    boundary: Literal["periodic", "closed"] = "closed",
) -> scipy.sparse.csc_array:
    """The pattern of a function of a grid that looks no further than ``radius`` cells.

    Args:
      shape: of the grid.
      radius: cells along every axis that an output looks at, on either side.
      num_inputs: channels, the last axis of the inputs.
      num_outputs: channels, the last axis of the outputs.
      boundary: whether the grid is ``"periodic"``.

    Returns:
      Sparse boolean [outputs, inputs] for ``dz.differentiable(structure=…)``.

    Raises:
      ValueError: a negative radius.

    Example:
      >>> windows((4,), 1).toarray().astype(int)
      array([[1, 1, 0, 0],
             [1, 1, 1, 0],
             [0, 1, 1, 1],
             [0, 0, 1, 1]])
    """
    if radius < 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    whole = scipy.sparse.csc_array(np.ones((1, 1), bool))
    for size in shape:
        offset = np.arange(size)[:, None] - np.arange(size)
        if boundary == "periodic":
            offset = np.minimum(offset % size, -offset % size)
        whole = scipy.sparse.kron(whole, np.abs(offset) <= radius)
    return scipy.sparse.csc_array(scipy.sparse.kron(whole, np.ones((num_outputs, num_inputs))) != 0)


def cosine_basis(shape: Sequence[int], keep: int | Sequence[int]) -> np.ndarray:
    """The lowest cosines along every axis of an image or a field, orthonormal.

    Args:
      shape: of one sample.
      keep: how many along each axis, or one number for all; at most the size of the axis.

    Returns:
      float64 [product of ``keep``, size of a sample], for ``dz.differentiable(basis=…)``.

    Raises:
      ValueError: more cosines than an axis has numbers.

    Example:
      >>> basis = cosine_basis((8, 8, 3), (2, 2, 3))
      >>> basis.shape, bool(np.allclose(basis @ basis.T, np.eye(12)))
      ((12, 192), True)
    """
    kept = [keep] * len(shape) if isinstance(keep, int) else list(keep)
    if len(kept) != len(shape) or any(not 1 <= k <= s for k, s in zip(kept, shape, strict=True)):
        raise ValueError(
            f"keep must be a number between 1 and the size of each axis {tuple(shape)}, got {keep}"
        )
    whole = np.ones((1, 1))
    for size, count in zip(shape, kept, strict=True):
        angles = np.pi * np.arange(count)[:, None] * (np.arange(size) + 0.5) / size
        waves = np.cos(angles) * np.sqrt(2 / size)
        waves[0] /= np.sqrt(2)
        whole = np.kron(whole, waves)
    return whole
