"""How long a run is and what was spent before it, as the user of the loop gives it."""

from collections.abc import Mapping
from typing import NamedTuple

from deepzero_jax.counts import check_count
from deepzero_jax.training.samples import PURPOSES


class Lengths(NamedTuple):
    """What ``train`` and ``plan`` are told of a run, as integers.

    Attributes:
      num_steps: of the whole run.
      evaluation_interval: steps between evaluations.
      initial_queries: spent before the first step.
      initial_samples: of black boxes, likewise, by purpose.
    """

    num_steps: int
    evaluation_interval: int
    initial_queries: int
    initial_samples: dict[str, int]

    @classmethod
    def of(
        cls,
        steps_per_epoch: int,
        num_steps: int,
        evaluation_interval: int | None,
        initial_queries: int,
        initial_samples: Mapping[str, int] | None,
    ) -> "Lengths":
        """Checked one by one; an ``evaluation_interval`` of None is an epoch of the task."""
        remedy = ": are the data fewer than a batch?"
        num_steps = check_count("num_steps", num_steps)
        interval = check_count("Task.steps_per_epoch", steps_per_epoch, remedy=remedy)
        if evaluation_interval is not None:
            interval = check_count("evaluation_interval", evaluation_interval)
        queries = check_count("initial_queries", initial_queries, 0)
        return cls(num_steps, interval, queries, _spent_samples(initial_samples))


def _spent_samples(initial_samples: Mapping[str, int] | None) -> dict[str, int]:
    """``{purpose: samples}``, checked."""
    found = {}
    for purpose, count in (initial_samples or {}).items():
        if purpose not in PURPOSES:
            known = ", ".join(PURPOSES)
            raise ValueError(f"initial_samples: unknown purpose {purpose!r} (known: {known})")
        found[purpose] = check_count(f"initial_samples[{purpose!r}]", count, 0)
    return found


def check_pause(checkpoint_seconds: float) -> None:
    """Raises ValueError for seconds between checkpoints that are negative or NaN."""
    if not checkpoint_seconds >= 0:
        raise ValueError(
            f"checkpoint_seconds must be a number of seconds of at least 0, got "
            f"{checkpoint_seconds!r}"
        )
