"""The two applications, seed by seed: certified accuracy of defenses, errors of corrections.

python -m studies.applications --parts defense_digits,sol_ks,sol_ks_large,sol_wake --seeds 0,1,2

Runs of ``sol_ks`` and ``sol_ks_large`` train from three seeds themselves. ``at_boundary``,
``code_of_2``, ``code_of_1``, ``as_pretrained``, ``more_queries`` and ``as_many_steps`` are
variations of ``defense_digits``: asked at the pixels of the box's input, codes too narrow for the
digits, next to no training, four times the queries, and the white box in DeepZero's number of
steps. ``sol_wake_large`` is one of ``sol_wake``: a correction of 22,994 parameters, trained at the
solver's inputs. ``defense_cifar10`` has budgets for two cores, and defends
the dense network of ``studies.recipe``, which runs first:

  python -m studies.recipe --methods first_order_dense
  python -m studies.applications --parts defense_cifar10 --seeds 0
"""

from collections.abc import Iterator

from deepzero_jax.training import Json
from studies.runner import Cell, main

STUDY = "applications"
DEFENSES = ("defense_digits", "defense_cifar10")
SOLVERS = ("sol_ks", "sol_ks_large", "sol_wake", "sol_wake_large")
# Of ``defense_digits``, each of one method: part, and the fields in which it differs.
DEFENSE_VARIATIONS: dict[str, Json] = {
    "at_boundary": {"training.methods": "zo_boundary"},
    "code_of_2": {"training.methods": "zo_ae_ds", "autoencoder.latent": 2},
    "code_of_1": {"training.methods": "zo_ae_ds", "autoencoder.latent": 1},
    "as_pretrained": {"training.methods": "deepzero", "training.num_queries": 1000},
    "more_queries": {"training.methods": "deepzero", "training.num_queries": 2_000_000},
    "as_many_steps": {"training.methods": "fo_ds", "training.first_order_steps": 638},
}
_WAKE_LARGE: Json = {
    "training.methods": "src,zo_sol_boundary,fo_sol",
    "training.learning_rate": 1e-3,
    "training.num_steps": 400,
    "correction.width": 48,
}
# Of the record's budgets what two cores can do, before a box that ``studies.recipe`` has trained.
_ON_TWO_CORES: Json = {
    "classifier.path": "runs/studies/recipe/resnet20-first_order_dense-0-50-0-bfloat16",
    "denoiser.pretraining_steps": 4000,
    "autoencoder.pretraining_steps": 4000,
    "training.methods": "none,pretrained,fo_ds,deepzero,zo_ds,zo_ae_ds,zo_boundary",
    "training.num_queries": 24_000,
    "training.batch_size": 32,
    "training.first_order_steps": 1000,
    "certification.num_images": 200,
    "certification.num_samples": 1000,
    "certification.radii": "0,0.25,0.5",
}
# Part: its record, and the fields in which it differs.
_VARIATIONS: dict[str, tuple[str, Json]] = {
    **{part: ("defense_digits", fields) for part, fields in DEFENSE_VARIATIONS.items()},
    "defense_cifar10": ("defense_cifar10", _ON_TWO_CORES),
    "sol_wake_large": ("sol_wake", _WAKE_LARGE),
}
_TRAINS_SEVERAL = ("sol_ks", "sol_ks_large")


def cells(
    parts: tuple[str, ...] = ("defense_digits", "sol_ks", "sol_wake"),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Iterator[Cell]:
    """A run for each seed, one where a run trains from several itself."""
    for part in parts:
        record, fields = _VARIATIONS.get(part, (part, {}))
        for seed in [0] if part in _TRAINS_SEVERAL else seeds:
            overrides = {"seed": seed, **fields}
            yield Cell(f"{part}-{seed}", record, overrides, {"part": part, "seed": seed})


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
