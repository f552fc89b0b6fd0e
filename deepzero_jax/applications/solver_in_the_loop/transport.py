"""Transport on a staggered grid, for NumPy and JAX alike: advection and diffusion."""

from types import ModuleType
from typing import Literal

import numpy as np

from deepzero_jax.types import Array

Advection = Literal["maccormack", "semi_lagrangian"]


def _sampled(xp: ModuleType, field: Array, x: Array, y: Array) -> tuple[Array, list[Array]]:
    """A field [n, p, q] at fractional indices, bilinear, and the four neighbours."""
    n, p, q = field.shape
    x, y = xp.clip(x, 0, p - 1), xp.clip(y, 0, q - 1)
    i, j = xp.clip(xp.floor(x), 0, p - 2), xp.clip(xp.floor(y), 0, q - 2)
    fx, fy = x - i, y - j
    own = np.arange(n, dtype=np.int32)[:, None, None] * (p * q)
    start = own + i.astype(np.int32) * q + j.astype(np.int32)
    flat = field.reshape(-1)
    corner = [xp.take(flat, start + step, mode="clip") for step in (0, 1, q, q + 1)]
    value = (1 - fx) * ((1 - fy) * corner[0] + fy * corner[1])
    return value + fx * ((1 - fy) * corner[2] + fy * corner[3]), corner


def advected(
    xp: ModuleType, advection: Advection, field: Array, along: Array, across: Array
) -> Array:
    """Moved with velocities, in cells a step, that are given on the field's own faces."""
    rows, columns = np.indices(field.shape[1:]).astype(field.dtype)
    moved, corner = _sampled(xp, field, rows - along, columns - across)
    if advection == "semi_lagrangian":
        return moved
    back, _ = _sampled(xp, moved, rows + along, columns + across)
    least = xp.minimum(xp.minimum(corner[0], corner[1]), xp.minimum(corner[2], corner[3]))
    largest = xp.maximum(xp.maximum(corner[0], corner[1]), xp.maximum(corner[2], corner[3]))
    return xp.clip(moved + 0.5 * (field - back), least, largest)


def diffused(xp: ModuleType, field: Array, number: Array, wall: str) -> Array:
    """One explicit step; ``number`` [n, 1, 1] is viscosity × time / cell²."""
    padded = xp.pad(field, ((0, 0), (1, 1), (0, 0)), mode="edge")
    change = padded[:, 2:] + padded[:, :-2] - 2 * field
    if wall == "slip":
        padded = xp.pad(field, ((0, 0), (0, 0), (1, 1)), mode="edge")
    else:
        padded = xp.pad(field, ((0, 0), (0, 0), (1, 1)))
    return field + number * (change + padded[:, :, 2:] + padded[:, :, :-2] - 2 * field)
