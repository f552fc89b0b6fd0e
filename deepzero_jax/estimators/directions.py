"""Random directions over the active coordinates of a parameter pytree."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.estimators.smoothing import Step
from deepzero_jax.keys import threefry
from deepzero_jax.types import Key, Params, PyTree

Distribution = Literal["normal", "sphere", "tensor_sphere", "rademacher"]
_DRAWS: dict[Distribution, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "sphere": jax.random.normal,
    "tensor_sphere": jax.random.normal,
    "rademacher": jax.random.rademacher,
}


class Drawn(NamedTuple):
    """A random direction.

    Attributes:
      leaves: of it.
      factor: of its slope.
      seed: of the rounding along it.
      counts: false for what fills up a part.
    """

    leaves: Sequence[jax.Array]
    factor: jax.Array | float
    seed: jax.Array
    counts: jax.Array

    def along(self, steps: Sequence[Step], sign: jax.Array | int = 1) -> list[jax.Array]:
        """Steps along it: the delta of each leaf."""
        return [sign * (step * u) for step, u in zip(steps, self.leaves, strict=True)]


def direction_key(key: Key, index: jax.Array | int) -> Key:
    """The key of a direction, the same whatever is drawn side by side."""
    return jax.random.fold_in(threefry(key), index)


def rounding_seed(key: Key) -> jax.Array:
    """What rounds the steps along the direction of a key, uint32: see ``in_the_mean``."""
    # The keys of leaves are split off the same one.
    return jax.random.bits(jax.random.fold_in(key, np.uint32(2**32 - 1)), dtype=jnp.uint32)


def draw_direction(
    key: Key, params: Params, mask: PyTree | None, distribution: Distribution
) -> tuple[Params, jax.Array | float]:
    """A random direction over the active coordinates, and the factor its slope is scaled by.

    Args:
      key: a PRNG key, consumed.
      params: pytree of arrays.
      mask: boolean pytree like ``params``, true where active; None for everywhere.
      distribution: see ``rge``.
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    draw = _DRAWS[distribution]
    # In 16 bits a normal number has few values, and their mean is not 0.
    pairs = zip(keys, leaves, strict=False)
    drawn = [draw(k, leaf.shape, wide_dtype(leaf.dtype)) for k, leaf in pairs]
    if mask is None:
        active = float(sum(np.size(leaf) for leaf in leaves))
    else:
        kept = treedef.flatten_up_to(mask)
        drawn = [jnp.where(keep, u, 0) for keep, u in zip(kept, drawn, strict=True)]
        active = jnp.asarray(sum(jnp.sum(keep) for keep in kept))
    factor = active if distribution == "sphere" else 1.0
    if distribution == "tensor_sphere":
        drawn = [_unit([u])[0] for u in drawn]
    if distribution == "sphere":
        drawn = _unit(drawn)
    taken = [u.astype(leaf.dtype) for u, leaf in zip(drawn, leaves, strict=True)]
    return treedef.unflatten(taken), factor


def typical_lengths(
    distribution: Distribution, sizes: Sequence[jax.Array | int]
) -> list[jax.Array | float]:
    """Root mean square of the numbers of a direction, leaf by leaf.

    Args:
      distribution: see ``rge``.
      sizes: of the leaves, in active coordinates.
    """
    if distribution == "tensor_sphere":
        return [_or_one(size) ** -0.5 for size in sizes]
    return [_or_one(sum(sizes)) ** -0.5 if distribution == "sphere" else 1.0] * len(sizes)


def _or_one(size: jax.Array | int) -> jax.Array | int:
    return max(size, 1) if isinstance(size, int) else jnp.maximum(size, 1)


def _unit(vectors: Sequence[jax.Array]) -> list[jax.Array]:
    squared = jnp.asarray(sum(jnp.sum(jnp.square(u)) for u in vectors))
    norm = jnp.sqrt(jnp.where(squared == 0, 1.0, squared))
    return [u / norm for u in vectors]
