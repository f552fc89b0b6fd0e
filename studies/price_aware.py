"""Accuracy at equal price: the paper's masks, redrawn ones, price-aware rates, coherent CGE.

python -m studies.price_aware --parts cnn3,cnn2_cge,resnet20 --seeds 0,1,2

``cnn3`` and ``resnet20`` use exact gradients in place of CGE (the same coordinates and
scales); ``cnn2_cge`` is CGE. Every sparse run of a part costs the same multiply-adds a step.
"""

from collections.abc import Iterator
from typing import NamedTuple

from deepzero_jax.applications.classification import build, compute_scores, experiment_costs
from deepzero_jax.coordinates import kept_per_leaf
from deepzero_jax.pruning import layer_ratios
from deepzero_jax.training import Json
from studies.runner import Cell, configured, main

STUDY = "price_aware"
ARMS = {
    "dense": "dense",
    "paper": "GraSP ratios, masks kept (the paper's way)",
    "redrawn": "the same ratios, redrawn every step",
    "redrawn_unbiased": "the same, estimates divided by the rate",
    "price_aware": "price-aware rates, redrawn, divided by the rate",
    "coherent_1": "blocks in turn, earlier estimates kept (coherent, γ = 1)",
    "coherent_0.9": "the same, decayed by 0.9 a step",
    "coherent_0.7": "the same, decayed by 0.7 a step",
}


class Part(NamedTuple):
    """One comparison.

    Attributes:
      title: of its table.
      config: a file of configs/.
      overrides: common to all arms.
      kept: steps for which the paper's way keeps its masks.
      sparsity: of the GraSP ratios; None: such that they cost ``price``.
      price: of a sparse step, as a fraction of the dense one.
      arms: of ``ARMS``.
    """

    title: str
    config: str
    overrides: Json
    kept: int
    sparsity: float | None = None
    price: float = 0.1
    arms: tuple[str, ...] = tuple(ARMS)


_SCREENING = {
    "estimator.name": "first_order",
    "training.num_steps": 600,
    "training.evaluation_epochs": 600 / 195,
    "optimizer.warmup_epochs": 0,
}
PARTS = {
    "cnn3": Part(
        "CNN 6,670, exact gradients, 600 steps",
        "cnn_cifar10",
        {"model.name": "cnn3", **_SCREENING},
        kept=200,
        sparsity=0.9,
    ),
    "resnet20": Part(
        "ResNet-20, exact gradients, 600 steps",
        "resnet20_cifar10_paper",
        _SCREENING,
        kept=200,
        sparsity=0.9,
        arms=tuple(arm for arm in ARMS if not arm.startswith("coherent")),
    ),
    "cnn2_cge": Part(
        "CNN 3,700, CGE, 5 epochs at 10 % of the dense price",
        "cnn_cifar10",
        {
            "model.name": "cnn2",
            "training.num_epochs": 5,
            "training.evaluation_epochs": 5,
            "optimizer.warmup_epochs": 0.5,
        },
        kept=390,
    ),
}


def sparsity_and_prices(part: Part, seed: int) -> tuple[float, float, float]:
    """Sparsity of a part's GraSP ratios; multiply-adds of a step at them, and of a dense one."""
    network = {name: value for name, value in part.overrides.items() if name == "model.name"}
    changes = {"seed": seed, "pruning.scores": "grasp", **network}
    experiment = build(configured(part.config, changes))
    scores = compute_scores(experiment)[0]
    costs = experiment_costs(experiment)

    def price(sparsity: float) -> float:
        kept = kept_per_leaf(experiment.params, layer_ratios(scores, sparsity))
        return sum(kept[path] * costs[path] for path in costs)

    if part.sparsity is not None:
        return part.sparsity, price(part.sparsity), price(0.0)
    low, high = 0.0, 0.999
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if price(middle) < part.price * price(0.0) else (middle, high)
    sparsity = round(high, 6)
    return sparsity, price(sparsity), price(0.0)


def cells(
    parts: tuple[str, ...] = tuple(PARTS),
    arms: tuple[str, ...] = tuple(ARMS),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Iterator[Cell]:
    """The runs, seed by seed."""
    for seed in seeds:
        for name in parts:
            part = PARTS[name]
            sparsity, price, dense_price = sparsity_and_prices(part, seed)
            blocks = round(dense_price / price)
            ratios = {"pruning.sparsity": sparsity, "pruning.scores": "grasp"}
            own: dict[str, Json] = {
                "dense": {"pruning.sparsity": 0.0},
                "paper": {**ratios, "pruning.mask_interval": f"{part.kept} steps"},
                "redrawn": {**ratios, "pruning.mask_interval": "1 step"},
                "redrawn_unbiased": {
                    **ratios,
                    "pruning.mask_interval": "1 step",
                    "sampling.unbiased": "true",
                },
                "price_aware": {
                    **ratios,
                    "sampling.name": "price_aware",
                    "sampling.budget": "layer ratios",
                },
            }
            for decay in ("1", "0.9", "0.7"):
                own[f"coherent_{decay}"] = {
                    "sampling.name": "blocks",
                    "sampling.num_blocks": blocks,
                    "sampling.coherence": decay,
                }
            for arm in arms:
                if arm not in part.arms:
                    continue
                chosen = {"sampling.name": "layer_ratios"} | own[arm]
                overrides = {"seed": seed, **part.overrides, **chosen}
                spent = dense_price if arm == "dense" else price
                if arm.startswith("coherent"):
                    spent = dense_price / blocks
                labels = {"part": name, "arm": arm, "seed": seed, "price": spent / dense_price}
                yield Cell(f"{name}-{arm}-{seed}", part.config, overrides, labels)


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
