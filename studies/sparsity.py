"""ResNet-20 on CIFAR-10 against sparsity: DeepZero, and what autodiff makes of the same masks.

python -m studies.sparsity --methods first_order_gradient,first_order_weights --epochs 15

``deepzero`` and ``deepzero_paper`` (smoothing 1e-4 and the paper's 5e-3) want a GPU; a run that
was stopped goes on where it was, so that it can be done in pieces (``--foreground``: one signal; a
second one would end the run before it has saved):

  timeout --foreground 540 python -m studies.sparsity --methods deepzero --sparsities 0.99
"""

from collections.abc import Iterator

from deepzero_jax.training import Json
from studies.runner import Cell, length_overrides, main

STUDY = "sparsity"
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
}
TITLES = {
    "deepzero": "DeepZero, smoothing 1e-4",
    "deepzero_paper": "DeepZero, smoothing 5e-3",
    "first_order_gradient": "first-order, sparse gradient",
    "first_order_weights": "first-order, sparse weights",
}
# Accuracies of the paper at the four sparsities, and dense.
PAPER = {
    "deepzero_paper": (86.94, 86.46, 84.26, 73.37),
    "first_order_gradient": (90.12, 88.55, 86.98, 78.1),
    "first_order_weights": (88.59, 86.25, 82.95, 68.22),
}
PAPER_DENSE = 92.85


def cells(
    methods: tuple[str, ...] = tuple(METHODS),
    sparsities: tuple[float, ...] = SPARSITIES,
    seeds: tuple[int, ...] = (0,),
    epochs: float = 50,
) -> Iterator[Cell]:
    """The runs; the dense one stands once for all sparsities."""
    for seed in seeds:
        for method in methods:
            for sparsity in [0.0] if method == "first_order_dense" else sparsities:
                overrides = {
                    "seed": seed,
                    "pruning.sparsity": sparsity,
                    **length_overrides(epochs),
                    **METHODS[method],
                }
                labels = {"method": method, "sparsity": sparsity, "seed": seed, "epochs": epochs}
                name = f"{method}-{sparsity:g}-{epochs:g}-{seed}"
                yield Cell(name, "resnet20_cifar10_paper", overrides, labels)


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
