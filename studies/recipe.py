"""The paper's recipe at its full length: ResNet-20, first-order, with and without its masks.

python -m studies.recipe --methods first_order_dense

Runs of ``studies.sparsity`` in all but where the slopes come from: PyTorch takes the loss and its
slopes (``studies.torch_slopes``; the ``bench`` extra), five times as fast on a CPU, its
convolutions in bfloat16 unless ``--precision float32``. A run that was stopped goes on where it
was.
"""

from collections.abc import Iterator
from pathlib import Path

from studies import sparsity
from studies.runner import RUNS, Measurement, check_known, main
from studies.torch_slopes import by_torch

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
    runs: Path = RUNS,
) -> Iterator[Measurement]:
    """The runs, whose run folders lie in ``runs``.

    Raises:
      ValueError: an unknown method or precision.
    """
    check_known("method", methods, METHODS)
    for seed in seeds:
        for method in methods:
            for level in METHODS[method]:
                cell = sparsity.cell("resnet20", method, level, seed, epochs)
                evaluation = {"training.evaluation_epochs": max(1.0, epochs / 10)}
                cell = cell._replace(
                    name=f"{cell.name}-{precision}", overrides={**cell.overrides, **evaluation}
                )
                yield by_torch(STUDY, cell, runs, precision)


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
