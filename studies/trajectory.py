"""How closely DeepZero's parameters follow those of autodiff under the same masks.

python -m studies.trajectory --steps 5

ResNet-20 at 99 % gradient sparsity, the first steps: distance between the parameters of a
zeroth-order run and of the first-order one, by the distance that the latter has travelled.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

import deepzero_jax as dz
from deepzero_jax.applications.classification import build, prepare_run
from deepzero_jax.training import Checkpointer, Json
from deepzero_jax.types import Params
from studies.runner import RUNS, Cell, Measurement, configured, main

STUDY = "trajectory"
WAYS: dict[str, Json] = {
    "first_order": {"estimator.name": "first_order"},
    "difference, smoothing 1e-4": {"estimator.smoothing": 1e-4},
    "difference, smoothing 5e-3": {"estimator.smoothing": 5e-3},
    "subtraction, smoothing 1e-4": {"estimator.smoothing": 1e-4, "estimator.reuse": "split"},
    "subtraction, smoothing 5e-3": {"estimator.smoothing": 5e-3, "estimator.reuse": "split"},
}
_CONFIG = "resnet20_cifar10_paper"


def cells(steps: int = 5, sparsity: float = 0.99) -> Iterator[Cell]:
    """The runs, first-order first."""
    for way, changes in WAYS.items():
        overrides = {"pruning.sparsity": sparsity, "training.num_steps": steps, **changes}
        name = f"run-{way.replace(', smoothing ', '-')}-{sparsity:g}-{steps}"
        yield Cell(name, _CONFIG, overrides, {"run": way, "steps": steps, "sparsity": sparsity})


def parameters(cell: Cell, folder: Path) -> tuple[Params, Params]:
    """Parameters of a run at its start and at its end."""
    experiment = build(configured(cell.config, cell.overrides))
    run = prepare_run(experiment, folder)
    checkpoints = Checkpointer(folder / "checkpoints", print)
    restored = checkpoints.restore(run.state)
    checkpoints.close()
    if restored is None:
        raise SystemExit(f"{folder} holds no checkpoint; delete its result file and run it again")
    return experiment.params, restored[0].params


def distances(steps: int = 5, sparsity: float = 0.99, runs: Path = RUNS) -> Iterator[Measurement]:
    """Distance of each zeroth-order run from the first-order one."""
    reference, *others = cells(steps, sparsity)

    def measure(cell: Cell) -> Json:
        start, first_order = parameters(reference, runs / STUDY / reference.name)
        _, found = parameters(cell, runs / STUDY / cell.name)
        moved = lambda end: jax.tree.map(jnp.subtract, end, start)
        quality = dz.gradient_quality(moved(found), moved(first_order))
        return {"strayed": float(quality.relative_error), "cosine": float(quality.cosine)}

    for cell in others:
        labels = {"way": cell.labels["run"], "steps": steps, "sparsity": sparsity}
        name = cell.name.replace("run-", "distance-", 1)
        yield Measurement(name, labels, lambda c=cell: measure(c))


if __name__ == "__main__":
    main(
        STUDY,
        (
            cells,
            distances,
        ),
        __doc__ or "",
    )
