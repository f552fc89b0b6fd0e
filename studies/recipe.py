"""The paper's recipe at its full length: ResNet-20, first-order, with and without its masks.

python -m studies.recipe --methods first_order_dense

Runs of ``studies.sparsity`` in all but where the slopes come from: PyTorch takes the loss and its
slopes (``studies.torch_slopes``; the ``bench`` extra), five times as fast on a CPU, its
convolutions in bfloat16 unless ``--precision float32``. A run that was stopped goes on where it
was.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from deepzero_jax.applications.classification import build, prepare_run, train_prepared
from deepzero_jax.models.resnet import ResNet
from deepzero_jax.programs import identity
from deepzero_jax.training import InterruptedRunError, Json, RunFolder
from studies import sparsity
from studies.runner import Measurement, check_known, configured, learning_curve, main
from studies.torch_slopes import torch_loss

STUDY = "recipe"
# Method: at which sparsities.
METHODS = {
    "first_order_dense": (0.0,),
    "first_order_gradient": (0.9, 0.99),
    "first_order_weights": (0.9,),
    "first_order_price_aware": (0.9, 0.99),
}


def cells(
    methods: tuple[str, ...] = tuple(METHODS),
    seeds: tuple[int, ...] = (0,),
    epochs: float = 50,
    precision: str = "bfloat16",
    folder: str = "runs/studies/recipe",
) -> Iterator[Measurement]:
    """The runs; ``folder`` holds their run folders.

    Raises:
      ValueError: an unknown method.
    """
    check_known("method", methods, METHODS)
    for seed in seeds:
        for method in methods:
            for level in METHODS[method]:
                cell = sparsity.cell("resnet20", method, level, seed, epochs)
                overrides = {**cell.overrides, "training.evaluation_epochs": max(1.0, epochs / 10)}
                name = f"{cell.name}-{precision}"
                labels = {**cell.labels, "precision": precision}
                measure = partial(_train, overrides, precision, Path(folder) / name)
                yield Measurement(name, labels, measure)


def _train(overrides: Json, precision: str, workdir: Path) -> Json:
    """Trains a run, or goes on training it; its summary and its test accuracies by epoch."""
    config = configured("resnet20_cifar10_paper", overrides)
    experiment = build(config)
    assert isinstance(experiment.model, ResNet)
    with RunFolder(workdir, identity(config)) as folder:
        # Scores and prices are those of the loss in JAX.
        prepared = prepare_run(experiment, workdir)
        loss = torch_loss(experiment.model, precision)
        step = replace(prepared.step.step, task=experiment.task._replace(loss=loss))
        prepared = prepared._replace(step=step.compile(prepared.state))
        folder.claim()
        try:
            summary = train_prepared(prepared, workdir, workdir.name)
        except InterruptedRunError as error:
            raise SystemExit(f"{STUDY}/{workdir.name} stopped: {error}") from error
    return {**summary, "learning_curve": learning_curve(workdir / "metrics.jsonl")}


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
