"""Accuracy on CIFAR-10 against sparsity: DeepZero, and what autodiff makes of the same masks.

python -m studies.sparsity --methods first_order_gradient,first_order_weights --epochs 15
python -m studies.sparsity --networks resnet8 --methods deepzero,price_aware --epochs 30
python -m studies.sparsity --networks resnet8 --methods first_order_weights --slopes torch

``deepzero`` and ``deepzero_paper`` (smoothing 1e-4 and the paper's 5e-3) of ResNet-20 want a GPU,
of the small ResNet-8 hours of a core; ``price_aware`` spends the price of DeepZero's masks at the
rates that buy most gradient, and ``first_order_price_aware`` takes the slopes there from autodiff.
``--slopes torch`` takes first-order slopes from PyTorch (``studies.torch_slopes``).
A run that was stopped goes on where it was, so that it can be done in pieces (``--foreground``: one
signal; a second one would end the run before it has saved):

  timeout --foreground 540 python -m studies.sparsity --methods deepzero --sparsities 0.99
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deepzero_jax.training import Json
from studies.runner import RUNS, Cell, Measurement, check_known, length_overrides, main
from studies.torch_slopes import slopes_by

STUDY = "sparsity"


class Network(NamedTuple):
    """A network of the study.

    Attributes:
      title: of its table.
      overrides: of configs/resnet20_cifar10_paper.py.
      paper: accuracies that the paper prints for it, ``{method: at each of SPARSITIES}``.
      paper_dense: that of the dense first-order run.
    """

    title: str
    overrides: Json
    paper: dict[str, tuple[float, ...]]
    paper_dense: float | None


NETWORKS = {
    "resnet20": Network(
        "ResNet-20",
        {},
        {
            "deepzero_paper": (86.94, 86.46, 84.26, 73.37),
            "first_order_gradient": (90.12, 88.55, 86.98, 78.1),
            "first_order_weights": (88.59, 86.25, 82.95, 68.22),
        },
        92.85,
    ),
    "resnet8": Network(
        "ResNet-8 of width 4, 5,006 parameters",
        {"model.name": "resnet8", "model.width": 4},
        {},
        None,
    ),
}
SPARSITIES = (0.8, 0.9, 0.95, 0.99)
METHODS: dict[str, Json] = {
    "first_order_dense": {"estimator.name": "first_order", "pruning.sparsity": 0.0},
    "first_order_gradient": {"estimator.name": "first_order", "pruning.mask": "gradient"},
    "first_order_weights": {
        "estimator.name": "first_order",
        "pruning.mask": "weights",
        "pruning.scores": "grasp",
    },
    "deepzero": {"estimator.smoothing": 1e-4},
    "deepzero_paper": {"estimator.smoothing": 5e-3},
    "price_aware": {
        "estimator.smoothing": 1e-4,
        "sampling.name": "price_aware",
        "sampling.budget": "layer ratios",
    },
    "first_order_price_aware": {
        "estimator.name": "first_order",
        "sampling.name": "price_aware",
        "sampling.budget": "layer ratios",
    },
}
TITLES = {
    "deepzero": "DeepZero, smoothing 1e-4",
    "deepzero_paper": "DeepZero, smoothing 5e-3",
    "price_aware": "price-aware CGE at DeepZero's price, smoothing 1e-4",
    "first_order_price_aware": "first-order, price-aware rates at DeepZero's price",
    "first_order_gradient": "first-order, sparse gradient",
    "first_order_weights": "first-order, sparse weights",
}


def cells(
    networks: tuple[str, ...] = ("resnet20",),
    methods: tuple[str, ...] = tuple(METHODS),
    sparsities: tuple[float, ...] = SPARSITIES,
    seeds: tuple[int, ...] = (0,),
    epochs: float = 50,
    slopes: str = "xla",
    runs: Path = RUNS,
) -> Iterator[Cell | Measurement]:
    """The runs; the dense one stands once for all sparsities.

    Raises:
      ValueError: an unknown network or method, or slopes that PyTorch does not take.
    """
    check_known("network", networks, NETWORKS)
    check_known("method", methods, METHODS)
    for network in networks:
        for seed in seeds:
            for method in methods:
                for sparsity in [0.0] if method == "first_order_dense" else sparsities:
                    run = cell(network, method, sparsity, seed, epochs)
                    yield slopes_by(slopes, STUDY, run, runs)


def cell(network: str, method: str, sparsity: float, seed: int, epochs: float) -> Cell:
    """One run."""
    overrides = {
        "seed": seed,
        "pruning.sparsity": sparsity,
        **length_overrides(epochs),
        **NETWORKS[network].overrides,
        **METHODS[method],
    }
    labels = {
        "network": network,
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "epochs": epochs,
    }
    name = f"{network}-{method}-{sparsity:g}-{epochs:g}-{seed}"
    return Cell(name, "resnet20_cifar10_paper", overrides, labels)


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
