"""The paper's recipe at its full length: ResNet-20, first-order, with and without its masks.

python -m studies.recipe --methods first_order_dense
python -m studies.recipe --methods first_order_gradient --sparsities 0.99 --epochs 10 --masks \
  as_published,as_released,each_epoch

Runs of ``studies.sparsity`` in all but where the slopes come from: PyTorch takes the loss and its
slopes (``studies.torch_slopes``; the ``bench`` extra), five times as fast on a CPU, its
convolutions in bfloat16 unless ``--precision float32``. ``--masks`` makes them in another way: with
the ratios of the paper's released code, which ranks by magnitude what noise is larger in small
layers, or anew in each epoch. ``--batches 128`` takes twice the steps in as many epochs. A run that
was stopped goes on where it was.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp

from deepzero_jax.applications.classification import Config, build
from deepzero_jax.coordinates import kept_per_leaf
from deepzero_jax.estimators import coordinate_costs
from deepzero_jax.pruning import load_ratios
from deepzero_jax.training import Json
from studies import sparsity
from studies.runner import RUNS, Cell, Measurement, check_known, configured, main
from studies.torch_slopes import by_torch

STUDY = "recipe"
# Method: at which sparsities.
METHODS = {
    "first_order_dense": (0.0,),
    "first_order_gradient": (0.9, 0.99),
    "first_order_weights": (0.9,),
    "first_order_price_aware": (0.9, 0.99),
}
BATCH = 256  # of the paper's code
# How the masks are made: the fields in which it differs.
MASKS: dict[str, Json] = {
    "as_published": {},
    "as_released": {"pruning.variant": "released", "pruning.prune": "smallest_magnitude"},
    "each_epoch": {"pruning.mask_interval": "1 epoch"},
}


def cells(
    methods: tuple[str, ...] = tuple(METHODS),
    sparsities: tuple[float, ...] = (0.0, 0.9, 0.99),
    masks: tuple[str, ...] = ("as_published",),
    seeds: tuple[int, ...] = (0,),
    epochs: float = 50,
    precision: str = "bfloat16",
    batches: tuple[int, ...] = (BATCH,),
    runs: Path = RUNS,
) -> Iterator[Measurement]:
    """The runs, whose run folders lie in ``runs``.

    Raises:
      ValueError: an unknown method, way of making masks or precision.
    """
    check_known("method", methods, METHODS)
    check_known("masks", masks, MASKS)
    for seed, method, made, batch in product(seeds, methods, masks, batches):
        for level in METHODS[method]:
            if level not in sparsities:
                continue
            run = sparsity.cell("resnet20", method, level, seed, epochs)
            changes = {
                "training.evaluation_epochs": max(1.0, epochs / 10),
                "data.batch_size": batch,
            }
            run = run._replace(
                name=_name(run, precision, made, batch),
                overrides={**run.overrides, **changes, **MASKS[made]},
                labels={**run.labels, "masks": made, "batch": batch},
            )
            yield by_torch(STUDY, run, runs, precision)


def prices(
    masks: tuple[str, ...] = ("as_published",), epochs: float = 50, runs: Path = RUNS
) -> Iterator[Measurement]:
    """What a step of CGE on masks at 99 % would cost, by the ratios in the folders of those runs.

    Raises:
      ValueError: an unknown way of making masks.
    """
    check_known("masks", masks, MASKS)
    for made in masks:
        run = sparsity.cell("resnet20", "deepzero", 0.99, 0, epochs)
        trained = sparsity.cell("resnet20", "first_order_gradient", 0.99, 0, epochs)
        ratios = runs / STUDY / _name(trained, "bfloat16", made)
        changes = {**run.overrides, **MASKS[made]}
        labels = {"masks": made, "sparsity": 0.99, "priced": True}
        measure = partial(_price, configured(run.config, changes), ratios / "ratios.json")
        yield Measurement(f"price-0.99-{made}", labels, measure)


def _price(config: Config, ratios: Path) -> Json:
    experiment = build(config)
    params, task = experiment.params, experiment.task
    batch = task.batch(task.data, jax.random.key(0), jnp.int32(0))
    args = (experiment.model_state, *batch)
    costs = coordinate_costs(task.loss, params, *args, has_aux=True)
    kept = kept_per_leaf(params, load_ratios(ratios).ratios)
    spent = {path: kept[path] * costs[path] for path in kept}
    stage = lambda name: sum(cost for path, cost in spent.items() if path.startswith(name))
    stages = {name: stage(name) for name in ("stem", "stage1", "stage2", "stage3", "classifier")}
    return {"multiply_adds": sum(spent.values()), "kept": sum(kept.values()), "of_stages": stages}


def _name(run: Cell, precision: str, made: str, batch: int = BATCH) -> str:
    other_masks = "" if made == "as_published" else f"-{made}"
    other_batch = "" if batch == BATCH else f"-batch{batch}"
    return f"{run.name}-{precision}{other_masks}{other_batch}"


if __name__ == "__main__":
    main(STUDY, (cells, prices), __doc__ or "")
