"""Random directions, coordinates and autodiff on the CNN ladder, in one trainer.

python -m studies.cge_vs_rge --depth 1,2 --epochs 30 --methods cge,rge_192,first_order --seeds 0,1,2

One seed unless more are named: a run of CGE takes minutes an epoch, one of ``rge_d`` hours.

Paper: DeepZero, section 5 (arXiv 2310.02025), where RGE takes as many directions as there are
parameters (``rge_d``) and a tenth of CGE's learning rate.
"""

from collections.abc import Iterator

from deepzero_jax.training import Json
from studies.runner import Cell, length_overrides, main

STUDY = "cge_vs_rge"
SIZES = {1: 730, 2: 3_700, 3: 6_670, 4: 9_640, 5: 12_610}
METHODS = ("first_order", "cge", "rge_192", "rge_d")
_RGE_LEARNING_RATE = 0.01


def method_overrides(method: str, depth: int) -> Json:
    """The fields in which a method departs from the config.

    Raises:
      ValueError: an unknown method or depth.
    """
    if method not in METHODS or depth not in SIZES:
        raise ValueError(
            f"no method {method!r} at depth {depth}; methods: {', '.join(METHODS)}; depths 1 to 5"
        )
    if not method.startswith("rge"):
        return {"estimator.name": method}
    directions = SIZES[depth] if method == "rge_d" else 192
    return {
        "estimator.name": "rge",
        "estimator.num_directions": directions,
        "optimizer.learning_rate": _RGE_LEARNING_RATE,
    }


def cells(
    depth: tuple[int, ...] = (1, 2),
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0,),
    epochs: float = 30,
) -> Iterator[Cell]:
    """The runs, shallow networks first."""
    for size in depth:
        for seed in seeds:
            for method in methods:
                overrides = {
                    "seed": seed,
                    "model.name": f"cnn{size}",
                    **length_overrides(epochs),
                    **method_overrides(method, size),
                }
                labels = {"depth": size, "method": method, "seed": seed, "epochs": epochs}
                name = f"cnn{size}-{method}-{epochs:g}-{seed}"
                yield Cell(name, "cnn_cifar10", overrides, labels)


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
