"""How closely DeepZero's parameters follow those of autodiff under the same masks.

python -m studies.trajectory --steps 5

ResNet-20 at 99 % gradient sparsity, the first steps: distance between the parameters of a
zeroth-order run and of the first-order one, by the distance that the latter has travelled.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import deepzero_jax as dz
from configs.experiment import build
from configs.run import prepare_run
from deepzero_jax.training.checkpoint import Checkpointer
from studies.runner import Cell, Measurement, configured, run_measurements, run_study

STUDY = "trajectory"
WAYS: dict[str, dict[str, Any]] = {
    "first_order": {"estimator.name": "first_order"},
    "difference, smoothing 1e-4": {"estimator.smoothing": 1e-4},
    "difference, smoothing 5e-3": {"estimator.smoothing": 5e-3},
    "subtraction, smoothing 1e-4": {"estimator.smoothing": 1e-4, "estimator.reuse": "split"},
    "subtraction, smoothing 5e-3": {"estimator.smoothing": 5e-3, "estimator.reuse": "split"},
}
_CONFIG = "resnet20_cifar10_paper"


def cells(steps: int, sparsity: float) -> Iterator[Cell]:
    """The runs, first-order first."""
    for way, changes in WAYS.items():
        overrides = {"pruning.sparsity": sparsity, "training.num_steps": steps, **changes}
        name = f"run-{way.replace(', smoothing ', '-')}-{sparsity:g}-{steps}"
        yield Cell(name, _CONFIG, overrides, {"run": way, "steps": steps, "sparsity": sparsity})


def parameters(cell: Cell, folder: Path) -> tuple[Any, Any]:
    """Parameters of a run at its start and at its end."""
    experiment = build(configured(cell.config, cell.overrides))
    run = prepare_run(experiment, folder)
    checkpoints = Checkpointer(folder / "checkpoints", print)
    restored = checkpoints.restore(run.initial_state)
    checkpoints.close()
    if restored is None:
        raise SystemExit(f"{folder} holds no checkpoint; delete its result file and run it again")
    return experiment.params, restored[0].params


def distances(steps: int, sparsity: float, runs: Path) -> Iterator[Measurement]:
    """Distance of each zeroth-order run from the first-order one."""
    reference, *others = cells(steps, sparsity)

    def measure(cell: Cell) -> dict[str, Any]:
        start, first_order = parameters(reference, runs / STUDY / reference.name)
        _, found = parameters(cell, runs / STUDY / cell.name)
        moved = lambda end: jax.tree.map(jnp.subtract, end, start)
        quality = dz.gradient_quality(moved(found), moved(first_order))
        return {"strayed": float(quality.relative_error), "cosine": float(quality.cosine)}

    for cell in others:
        labels = {"way": cell.labels["run"], "steps": steps, "sparsity": sparsity}
        name = cell.name.replace("run-", "distance-", 1)
        yield Measurement(name, labels, lambda c=cell: measure(c))


def main() -> None:
    """Runs and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.99)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    options = parser.parse_args()
    run_study(STUDY, cells(options.steps, options.sparsity), options.runs)
    run_measurements(STUDY, distances(options.steps, options.sparsity, options.runs))


if __name__ == "__main__":
    main()
