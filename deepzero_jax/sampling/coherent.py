"""Coherent coordinate descent: blocks in turn, and descent along all estimates made so far."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import leaf_sizes
from deepzero_jax.counts import check_count
from deepzero_jax.keys import key_of, words_of
from deepzero_jax.sampling.selection import Sampler, Selection, keep_state
from deepzero_jax.types import Params, PyTree

if TYPE_CHECKING:
    import optax


def block_sampler(params: Params, num_blocks: int) -> Sampler:
    """One block of coordinates after the other, so that ``num_blocks`` steps see each once.

    Each leaf is dealt out over the blocks in a random order, drawn once: a block holds
    ``1 / num_blocks`` of every leaf and of all, to within one coordinate.

    Args:
      params: pytree of arrays or of their shapes.
      num_blocks: blocks, at least 1.

    Returns:
      A ``Sampler``; the coordinates of a leaf are int32 [⌈leaf.size / num_blocks⌉].

    Raises:
      ValueError: fewer than one block.
    """
    num_blocks = check_count("num_blocks", num_blocks)
    leaves, treedef = jax.tree.flatten(params)
    whole = sum(map(np.size, leaves))
    # Blocks with one coordinate more than others come last: a plan is made from the first one.
    start = whole % num_blocks if whole >= num_blocks else 0

    def sample(state: jax.Array, step: jax.Array) -> Selection:
        keys = jax.random.split(key_of(state), max(len(leaves), 1))
        blocks, before = [], 0
        for position, leaf in enumerate(leaves):
            size = np.size(leaf)
            order = jax.random.permutation(keys[position], jnp.arange(size, dtype=jnp.int32))
            # A leaf starts at the block behind the last of the one before: blocks are as large.
            first = (step + start - before % num_blocks) % num_blocks
            places = first + num_blocks * jnp.arange(-(-size // num_blocks), dtype=jnp.int32)
            blocks.append(order.at[places].get(mode="fill", fill_value=size))
            before += size
        return Selection(treedef.unflatten(blocks))

    return Sampler(words_of, sample, keep_state, name="block_sampler", sizes=leaf_sizes(params))


def check_mask(mask: PyTree) -> None:
    """Raises ValueError for an update that was called without ``mask=``."""
    if mask is None:
        raise ValueError(
            "update() needs mask=, a boolean pytree like the parameters (true = estimated), "
            "see coordinates.coordinate_mask"
        )


def coherent_gradient(decay: float) -> "optax.GradientTransformationExtraArgs":
    """Completes a sparse gradient by earlier estimates of the other coordinates.

    The state is one number a coordinate, its latest estimate, multiplied by ``decay`` at
    every step that does not refresh it. First in an optax chain, it hands all of it on.

    Args:
      decay: γ in [0, 1]. 0: the sparse gradient itself; 1: old estimates count in full.

    Returns:
      An optax transformation whose ``update(grads, state, params, *, mask)`` takes a
      boolean pytree like ``params``, true = estimated anew.

    Raises:
      ValueError: ``decay`` outside [0, 1].

    **Cost**: no query; memory for one more copy of the parameters.
    Source: coherent coordinate descent (arXiv 2605.14373).

    Example:
      >>> tx = coherent_gradient(0.5)
      >>> state = tx.init(jnp.zeros(2))
      >>> _, state = tx.update(jnp.array([4.0, 0.0]), state, mask=jnp.array([True, False]))
      >>> grads, _ = tx.update(jnp.array([0.0, 3.0]), state, mask=jnp.array([False, True]))
      >>> grads.tolist()
      [2.0, 3.0]
    """
    import optax  # here: loading it takes long

    if not 0 <= decay <= 1:
        raise ValueError(f"the decay of coherent gradients must lie in [0, 1], got {decay}")

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, params)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        mask: PyTree = None,
        **extra: object,
    ) -> tuple[PyTree, PyTree]:
        del params, extra
        check_mask(mask)
        kept = jax.tree.map(
            lambda new, g, old: jnp.where(new, g, decay * old), mask, updates, state
        )
        return kept, kept

    return optax.GradientTransformationExtraArgs(init, update)
