"""How to spend a price: the same multiply-adds on many images, many coordinates or many steps.

python -m studies.spending --parts cnn3 --seeds 0,1,2
python -m studies.spending --parts resnet20 --slopes torch

Exact gradients stand for CGE, at coordinates drawn at price-aware rates. All runs of a part cost
as many perturbed multiply-adds as the dense one of few images; the base pass of each step, which
is as dear as a coordinate of the first layer, is not counted. ``--slopes torch`` takes the slopes
of a ResNet from PyTorch (``studies.torch_slopes``).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deepzero_jax.training import Json
from studies.runner import RUNS, Cell, Measurement, check_known, main
from studies.torch_slopes import slopes_by

STUDY = "spending"
NUM_STEPS = 600  # where batches are compared
BATCH = 256  # where numbers of steps are compared
_TRAINING_IMAGES = 50_000


class Part(NamedTuple):
    """A network.

    Attributes:
      title: of its table.
      config: a file of configs/.
      overrides: of it.
      images: a step of ``NUM_STEPS`` that asks all coordinates.
      batches: compared, beside that dense one.
      steps: compared.
    """

    title: str
    config: str
    overrides: Json
    images: int
    batches: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    steps: tuple[int, ...] = (300, 600, 1200, 2400)

    def runs(self, way: str) -> list[tuple[int, int]]:
        """Images of a step and number of steps of the runs that one way compares."""
        if way == "batch":
            return [(batch, NUM_STEPS) for batch in (self.images, *self.batches)]
        return [(BATCH, steps) for steps in self.steps]


WAYS = ("batch", "steps")
PARTS = {
    "cnn3": Part("CNN 6,670", "cnn_cifar10", {"model.name": "cnn3"}, images=70),
    "resnet20": Part("ResNet-20", "resnet20_cifar10_paper", {}, images=40),
}


def cells(
    parts: tuple[str, ...] = ("cnn3",),
    ways: tuple[str, ...] = WAYS,
    seeds: tuple[int, ...] = (0, 1, 2),
    slopes: str = "xla",
    runs: Path = RUNS,
) -> Iterator[Cell | Measurement]:
    """The runs, seed by seed, the short ones first.

    Raises:
      ValueError: an unknown part or way, or slopes that PyTorch does not take.
    """
    check_known("part", parts, PARTS)
    check_known("way", ways, WAYS)
    for seed in seeds:
        for name in parts:
            spent = {run for way in ways for run in PARTS[name].runs(way)}
            for batch, steps in sorted(spent, key=lambda run: run[0] * run[1]):
                yield slopes_by(slopes, STUDY, _cell(name, batch, steps, seed), runs)


def fraction(part: Part, batch: int, steps: int) -> float:
    """Of the price of all coordinates, what a step may cost; 1 for the dense run."""
    return part.images * NUM_STEPS / (batch * steps)


def _cell(name: str, batch: int, steps: int, seed: int) -> Cell:
    part = PARTS[name]
    share = fraction(part, batch, steps)
    drawn: Json = {"sampling.name": "price_aware", "sampling.budget": f"{100 * share:.4g} %"}
    overrides = {
        "seed": seed,
        **part.overrides,
        "data.batch_size": batch,
        "estimator.name": "first_order",
        "optimizer.warmup_epochs": 0,
        "training.num_steps": steps,
        "training.evaluation_epochs": steps / (_TRAINING_IMAGES // batch),
        "pruning.sparsity": 0.0,
        **(drawn if share < 1 else {"sampling.name": "layer_ratios"}),
    }
    labels = {"part": name, "batch": batch, "steps": steps, "fraction": share, "seed": seed}
    return Cell(f"{name}-{batch}x{steps}-{seed}", part.config, overrides, labels)


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
