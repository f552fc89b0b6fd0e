"""Random directions over the active coordinates of a parameter pytree."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.difference.precision import wide
from deepzero_jax.types import Key, Params, PyTree

Distribution = Literal["normal", "sphere", "tensor_sphere", "rademacher"]
_DRAWS: dict[Distribution, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "sphere": jax.random.normal,
    "tensor_sphere": jax.random.normal,
    "rademacher": jax.random.rademacher,
}


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
    drawn = [draw(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=False)]
    if mask is None:
        active = float(sum(np.size(leaf) for leaf in leaves))
    else:
        kept = treedef.flatten_up_to(mask)
        drawn = [jnp.where(keep, u, 0) for keep, u in zip(kept, drawn, strict=True)]
        active = jnp.asarray(sum(jnp.sum(keep) for keep in kept))
    if distribution == "tensor_sphere":
        return treedef.unflatten([_unit([u])[0] for u in drawn]), 1.0
    if distribution == "sphere":
        return treedef.unflatten(_unit(drawn)), active
    return treedef.unflatten(drawn), 1.0


def _unit(vectors: Sequence[jax.Array]) -> list[jax.Array]:
    # In float32: a sum of many squares is beyond float16.
    squared = jnp.asarray(sum(jnp.sum(jnp.square(wide(u))) for u in vectors))
    norm = jnp.sqrt(jnp.where(squared == 0, 1.0, squared))
    return [(u / norm).astype(u.dtype) for u in vectors]
