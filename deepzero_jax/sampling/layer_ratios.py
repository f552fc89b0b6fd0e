"""The paper's sampler: random coordinates at layer-wise pruning ratios."""

import jax
import jax.numpy as jnp

from deepzero_jax.coordinates import check_ratios, kept_per_leaf, leaf_sizes, sample_coordinates
from deepzero_jax.counts import check_count
from deepzero_jax.keys import key_of, words_of
from deepzero_jax.sampling.selection import Sampler, Selection, keep_state
from deepzero_jax.types import Params, PerLeaf


def layer_ratio_sampler(
    params: Params, ratios: PerLeaf, interval: int, unbiased: bool = False
) -> Sampler:
    """Random coordinates at layer-wise pruning ratios, redrawn every ``interval`` steps.

    Args:
      params: pytree of arrays or of their shapes.
      ratios: ``{leaf path: pruned fraction}``, from ``layer_ratios``; a leaf not named is
        kept whole.
      interval: steps between draws, at least 1.
      unbiased: divide the estimates of a leaf by the fraction that is perturbed, so that
        their mean over draws is the dense gradient; every leaf then keeps a coordinate at
        least. The paper does not.

    Raises:
      ValueError: ratios of another model, or an interval below 1.

    Source: DeepZero, algorithm 1.
    """
    check_ratios(params, ratios)
    interval = check_count("interval", interval)
    interval = min(interval, jnp.iinfo(jnp.int32).max)  # steps are int32
    treedef, sizes, scales = jax.tree.structure(params), leaf_sizes(params), None
    if unbiased:
        # Of a leaf that keeps nothing no mean is the gradient.
        ratios = {path: min(ratio, 1 - 1 / max(sizes[path], 1)) for path, ratio in ratios.items()}
        kept = kept_per_leaf(params, ratios)
        factors = [size / max(kept[path], 1) for path, size in sizes.items()]
        scales = treedef.unflatten([jnp.float32(factor) for factor in factors])

    def sample(state: jax.Array, step: jax.Array) -> Selection:
        key = jax.random.fold_in(key_of(state), step // interval)
        return Selection(sample_coordinates(key, params, ratios), scales)

    return Sampler(words_of, sample, keep_state, name="layer_ratio_sampler", sizes=sizes)
