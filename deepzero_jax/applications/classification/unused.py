"""Settings of a record that are given and have no effect, in words."""

import dataclasses
from collections.abc import Collection
from typing import Any

from deepzero_jax.applications.classification.config import Config, given_but
from deepzero_jax.estimators import ESTIMATORS
from deepzero_jax.registry import arguments
from deepzero_jax.training import OPTIMIZERS

# Fields of the optimiser that every rule is given, through its schedule.
_OF_THE_RATE = ("name", "learning_rate", "schedule", "warmup_epochs")


def unused_settings(config: Config) -> list[str]:
    """Says which settings differ from their defaults and change nothing, one line a reason.

    They are told and not refused, as it is common to name another estimator or optimiser for a
    record that has settings of its own.

    Example:
      >>> from deepzero_jax.applications.classification.config import Estimator
      >>> unused_settings(Config(estimator=Estimator("first_order", central=True)))
      ['estimator.central=True has no effect with estimator first_order']
    """
    rule, estimator = config.optimizer.name, config.estimator.name
    in_estimator = {
        "name",
        *(
            "chunk_size" if name == "batch_size" else name
            for name in arguments(ESTIMATORS[estimator])
        ),
    }
    in_rule = {*_OF_THE_RATE, *arguments(OPTIMIZERS[rule])}
    found = [
        (_given("optimizer", config.optimizer, in_rule), f"with optimizer {rule}"),
        (_given("estimator", config.estimator, in_estimator), f"with estimator {estimator}"),
        (_unused_when_dense(config), "at pruning.sparsity=0, where every step is dense"),
    ]
    return [f"{_listed(names)} no effect {where}" for names, where in found if names]


def _given(section: str, fields: Any, taken: Collection[str]) -> list[str]:
    """``"section.name=value"`` of the fields that differ from their defaults and are not taken."""
    return [f"{section}.{name}={value}" for name, value in given_but(fields, taken).items()]


def _unused_when_dense(config: Config) -> list[str]:
    if config.pruning.sparsity > 0 or config.sampling.name != "layer_ratios":
        return []
    others = {item.name for item in dataclasses.fields(config.pruning)} - {"mask"}
    return [
        *_given("pruning", config.pruning, others),
        *_given("sampling", config.sampling, ("name",)),
    ]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'}"
