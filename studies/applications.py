"""The two applications, seed by seed: certified accuracy of defenses, errors of corrections.

python -m studies.applications --parts defense_digits,sol_ks,sol_ks_large,sol_wake --seeds 0,1,2

Runs of ``sol_ks`` and ``sol_ks_large`` train from three seeds themselves. ``at_boundary``,
``code_of_2``, ``code_of_1``, ``as_pretrained``, ``more_queries`` and ``as_many_steps`` are
variations of ``defense_digits``: asked at the pixels of the box's input, codes too narrow for the
digits, next to no training, four times the queries, and the white box in DeepZero's number of
steps.
"""

from collections.abc import Iterator

from deepzero_jax.training import Json
from studies.runner import Cell, main

STUDY = "applications"
DEFENSES = ("defense_digits", "defense_cifar10")
SOLVERS = ("sol_ks", "sol_ks_large", "sol_wake")
# Of ``defense_digits``, each of one method: part, and the fields in which it differs.
VARIATIONS: dict[str, Json] = {
    "at_boundary": {"training.methods": "zo_boundary"},
    "code_of_2": {"training.methods": "zo_ae_ds", "autoencoder.latent": 2},
    "code_of_1": {"training.methods": "zo_ae_ds", "autoencoder.latent": 1},
    "as_pretrained": {"training.methods": "deepzero", "training.num_queries": 1000},
    "more_queries": {"training.methods": "deepzero", "training.num_queries": 2_000_000},
    "as_many_steps": {"training.methods": "fo_ds", "training.first_order_steps": 638},
}
_TRAINS_SEVERAL = ("sol_ks", "sol_ks_large")


def cells(
    parts: tuple[str, ...] = ("defense_digits", "sol_ks", "sol_wake"),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Iterator[Cell]:
    """A run for each seed, one where a run trains from several itself."""
    for part in parts:
        config = "defense_digits" if part in VARIATIONS else part
        for seed in [0] if part in _TRAINS_SEVERAL else seeds:
            overrides = {"seed": seed, **VARIATIONS.get(part, {})}
            yield Cell(f"{part}-{seed}", config, overrides, {"part": part, "seed": seed})


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
