"""From scores to layer-wise pruning ratios, by one threshold over all layers."""

from collections.abc import Iterable
from typing import Literal, get_args

import jax
import numpy as np

from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.types import PyTree

Ranking = Literal["highest", "lowest", "smallest_magnitude"]


def prune_mask(
    scores: PyTree,
    sparsity: float,
    *,
    prune: Ranking = "highest",
    always_kept: Iterable[str] | None = None,
) -> PyTree:
    """Mask (true = kept) of a global ranking of scores.

    Args:
      scores: pytree of arrays.
      sparsity: fraction of the ranked scalars to prune, in [0, 1).
      prune: which go first. ``"highest"`` scores, as GraSP does; ``"lowest"``, for
        scores that mean importance; ``"smallest_magnitude"``, as DeepZero's released
        code does with its GraSP scores (the sign is lost).
      always_kept: leaf paths that do not take part and are kept whole. None: every leaf
        of fewer than two dimensions, which are the biases and the scales and shifts of
        normalisation.

    Returns:
      Boolean pytree like ``scores``. Exactly ``⌊(1 - sparsity) * n + ½⌋`` of the n
      ranked scalars are kept; ties go by position.

    Raises:
      ValueError: sparsity outside [0, 1), unknown ``prune`` or leaf path, scores that
        are not finite, or that are all equal.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity!r}")
    if prune not in get_args(Ranking):
        raise ValueError(f"prune must be one of {list(get_args(Ranking))}, got {prune!r}")
    leaves, treedef = jax.tree.flatten(scores)
    arrays = [np.asarray(leaf, np.float64) for leaf in leaves]
    paths = leaf_paths(scores)
    kept_whole = _kept_whole(paths, arrays, always_kept)
    ranked = [i for i, path in enumerate(paths) if path not in kept_whole]
    if not ranked:
        return treedef.unflatten([np.ones(a.shape, bool) for a in arrays])
    flat = np.concatenate([arrays[i].ravel() for i in ranked])
    if not np.all(np.isfinite(flat)):
        raise ValueError(
            "scores hold values that are not finite: the loss is not there or a step away from it "
            "(lower the smoothing or the step), or they would be rounding alone (raise the step)"
        )
    if sparsity > 0 and flat.size > 1 and np.all(flat == flat[0]):
        raise ValueError(
            f"scores are all {flat[0] + 0.0:g}, which ranks nothing: raise the smoothing, until "
            "the loss answers a step of it, or take random_scores"
        )
    importance = {"highest": -flat, "lowest": flat, "smallest_magnitude": np.abs(flat)}[prune]
    count = int(np.floor((1.0 - sparsity) * flat.size + 0.5))
    keep = np.zeros(flat.size, bool)
    keep[np.argsort(-importance, kind="stable")[:count]] = True
    masks = [np.ones(a.shape, bool) for a in arrays]
    offset = 0
    for i in ranked:
        masks[i] = keep[offset : offset + arrays[i].size].reshape(arrays[i].shape)
        offset += arrays[i].size
    return treedef.unflatten(masks)


def layer_ratios(
    scores: PyTree,
    sparsity: float,
    *,
    prune: Ranking = "highest",
    always_kept: Iterable[str] | None = None,
) -> dict[str, float]:
    """Layer-wise pruning ratios: the fraction of each leaf beyond one global threshold.

    Args:
      scores: pytree like the parameters, from ``zo_grasp_scores``, ``grasp_scores`` or
        ``random_scores``.
      sparsity: fraction of all ranked scalars to prune, in [0, 1).
      prune: ``"highest"`` scores first (GraSP), ``"lowest"``, or
        ``"smallest_magnitude"`` (DeepZero's released code).
      always_kept: leaf paths kept whole; None: every leaf of fewer than two dimensions.

    Returns:
      ``{leaf path: pruned fraction in [0, 1]}`` for every leaf, 0.0 where kept whole.
      Ready for ``sample_coordinates``, which then draws exactly
      ``⌊(1 - sparsity) * n + ½⌋`` of the n ranked scalars.

    Raises:
      ValueError: sparsity outside [0, 1), unknown ``prune`` or leaf path, scores that
        are not finite, or that are all equal.

    **Cost**: no query; one sort on the host. Source: DeepZero, algorithm 1.

    Example:
      >>> layer_ratios({"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 4.0]])}, 0.5)
      {'a': 0.0, 'b': 1.0}
    """
    masks = prune_mask(scores, sparsity, prune=prune, always_kept=always_kept)
    fractions = [1.0 - float(np.mean(m)) if m.size else 0.0 for m in jax.tree.leaves(masks)]
    return dict(zip(leaf_paths(scores), fractions, strict=True))


def equal_fraction(scores: PyTree) -> float:
    """The fraction of the scores in leaves of two and more dimensions that have one value.

    Example:
      >>> equal_fraction({"a": np.array([[0.0, 0.0], [0.0, 1.0]]), "b": np.array([2.0])})
      0.75
    """
    ranked = [np.ravel(leaf) for leaf in jax.tree.leaves(scores) if np.ndim(leaf) >= 2]
    flat = np.concatenate(ranked) if ranked else np.zeros(0)
    if not flat.size:
        return 0.0
    return float(np.max(np.unique(flat, return_counts=True)[1]) / flat.size)


def _kept_whole(
    paths: list[str], arrays: list[np.ndarray], always_kept: Iterable[str] | None
) -> set[str]:
    if always_kept is None:
        return {path for path, a in zip(paths, arrays, strict=True) if a.ndim < 2}
    chosen = {always_kept} if isinstance(always_kept, str) else set(always_kept)
    unknown = sorted(chosen - set(paths))
    if unknown:
        raise ValueError(f"always_kept names leaves that scores do not have: {unknown}")
    return chosen
