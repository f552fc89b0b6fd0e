"""What the scores that set the layer ratios are worth.

python -m studies.pruning --scores zo_grasp,grasp,random --epochs 2 --directions 10,50,192,1000

Short runs of ResNet-20 by autodiff at 90 % gradient sparsity, the ratios from ZO-GraSP, GraSP
or chance; the ratios themselves; and the rank correlation of the scores of ZO-GraSP with those
of GraSP.
"""

from collections.abc import Iterator
from functools import cache, partial

import jax
import numpy as np
from scipy.stats import spearmanr

from deepzero_jax.applications.classification import build, compute_scores
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.fields import default_of
from deepzero_jax.pruning import in_layer_order, layer_ratios, zo_grasp_scores
from deepzero_jax.pruning.report import paths_as_made
from deepzero_jax.training import Json
from studies.runner import Cell, Measurement, configured, length_overrides, main

STUDY = "pruning"
SCORES = ("zo_grasp", "grasp", "random")
_CONFIG = "resnet20_cifar10_paper"
_DIRECTIONS: int = default_of(zo_grasp_scores, "num_directions")


def cells(
    scores: tuple[str, ...] = SCORES, seeds: tuple[int, ...] = (0, 1, 2), epochs: float = 2
) -> Iterator[Cell]:
    """The short runs."""
    for seed in seeds:
        for name in scores:
            overrides = {
                "seed": seed,
                "estimator.name": "first_order",
                "pruning.scores": name,
                **length_overrides(epochs),
            }
            labels = {"scores": name, "seed": seed, "epochs": epochs}
            yield Cell(f"{name}-{epochs:g}-{seed}", _CONFIG, overrides, labels)


@cache
def _scored(name: str, directions: int, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Scores of all parameters at initialisation; ratios of the leaves pruned, layers in order.

    Both parts of the study want them, and they take minutes.
    """
    changes = {"seed": seed, "pruning.scores": name, "pruning.num_directions": directions}
    experiment = build(configured(_CONFIG, changes))
    scores = compute_scores(experiment)[0]
    leaves = jax.tree.leaves(scores)
    ratios = layer_ratios(scores, experiment.config.pruning.sparsity)
    sizes = zip(leaf_paths(scores), leaves, strict=True)
    pruned = {path: ratios[path] for path, leaf in sizes if leaf.ndim > 1}
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    return flat, in_layer_order(pruned, paths_as_made(experiment.params))


def kept_fractions(
    scores: tuple[str, ...] = SCORES, seeds: tuple[int, ...] = (0, 1, 2)
) -> Iterator[Measurement]:
    """Fraction of every layer that each kind of scores keeps, layers in order."""

    def measure(name: str, seed: int) -> Json:
        ratios = _scored(name, _DIRECTIONS, seed)[1]
        return {"kept": {path: round(1 - ratio, 6) for path, ratio in ratios.items()}}

    for seed in seeds:
        for name in scores:
            labels = {"ratios_from": name, "seed": seed}
            yield Measurement(f"ratios-{name}-{seed}", labels, partial(measure, name, seed))


def correlations(
    directions: tuple[int, ...] = (10, 50, 192, 1000), seeds: tuple[int, ...] = (0, 1, 2)
) -> Iterator[Measurement]:
    """Agreement of ZO-GraSP and GraSP, by number of directions."""

    def measure(count: int, seed: int) -> Json:
        # GraSP takes no directions: one call for all counts.
        queried, ratios = _scored("zo_grasp", count, seed)
        exact, exact_ratios = _scored("grasp", _DIRECTIONS, seed)
        pruned, exact_pruned = list(ratios.values()), list(exact_ratios.values())
        return {
            "scores_spearman": float(np.asarray(spearmanr(queried, exact)[0])),
            "ratios_spearman": float(np.asarray(spearmanr(pruned, exact_pruned)[0])),
            "ratios_mean_distance": float(np.mean(np.abs(np.subtract(pruned, exact_pruned)))),
        }

    for seed in seeds:
        for count in directions:
            labels = {"num_directions": count, "seed": seed}
            yield Measurement(f"directions-{count}-{seed}", labels, partial(measure, count, seed))


if __name__ == "__main__":
    main(
        STUDY,
        (
            kept_fractions,
            correlations,
            cells,
        ),
        __doc__ or "",
    )
