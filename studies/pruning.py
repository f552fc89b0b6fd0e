"""What the scores that set the layer ratios are worth.

python -m studies.pruning --scores zo_grasp,grasp,random --epochs 2 --directions 10,50,192,1000

Short runs of ResNet-20 by autodiff at 90 % gradient sparsity, the ratios from ZO-GraSP, GraSP
or chance; and the rank correlation of the scores of ZO-GraSP with those of GraSP.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.stats import spearmanr

from configs.experiment import build
from configs.loading import load_config
from configs.ratios import compute_scores
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.pruning import layer_ratios
from studies.runner import ROOT, Cell, Measurement, length_overrides, run_measurements, run_study

STUDY = "pruning"
SCORES = ("zo_grasp", "grasp", "random")
_CONFIG = "resnet20_cifar10_paper"


def cells(scores: list[str], seeds: list[int], epochs: float) -> Iterator[Cell]:
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


def correlations(directions: list[int], seeds: list[int]) -> Iterator[Measurement]:
    """Agreement of ZO-GraSP and GraSP, by number of directions."""

    def measure(count: int, seed: int) -> dict[str, Any]:
        config = dataclasses.replace(load_config(ROOT / "configs" / f"{_CONFIG}.py"), seed=seed)
        flat, ratios = [], []
        for name in ("zo_grasp", "grasp"):
            pruning = dataclasses.replace(config.pruning, scores=name, num_directions=count)
            experiment = build(dataclasses.replace(config, pruning=pruning))
            scores = compute_scores(experiment)[0]
            found = layer_ratios(scores, pruning.sparsity)
            flat.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(scores)]))
            kernels = [path for path in leaf_paths(scores) if path in found]
            ratios.append([found[path] for path in kernels])
        return {
            "scores_spearman": float(np.asarray(spearmanr(*flat)[0])),
            "ratios_spearman": float(np.asarray(spearmanr(*ratios)[0])),
            "ratios_mean_distance": float(np.mean(np.abs(np.subtract(*ratios)))),
        }

    for seed in seeds:
        for count in directions:
            labels = {"num_directions": count, "seed": seed}
            yield Measurement(
                f"directions-{count}-{seed}", labels, lambda c=count, s=seed: measure(c, s)
            )


def main() -> None:
    """Runs and measures what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", default=",".join(SCORES))
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--directions", default="10,50,192,1000")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    directions = [int(count) for count in options.directions.split(",") if count]
    run_measurements(STUDY, correlations(directions, seeds))
    run_study(
        STUDY,
        cells([s for s in options.scores.split(",") if s], seeds, options.epochs),
        options.runs,
    )


if __name__ == "__main__":
    main()
