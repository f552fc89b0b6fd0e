"""How long a run is and what was spent before it, as the user of the loop gives it."""

import operator
from collections.abc import Mapping
from typing import NamedTuple, SupportsIndex

from deepzero_jax.training.samples import PURPOSES


def whole(name: str, value: SupportsIndex, least: int = 1, remedy: str = "") -> int:
    """An integer of Python's, NumPy's or JAX's as one of Python's.

    Args:
      name: of the argument.
      value: of it.
      least: that it may be.
      remedy: the end of a message, if there is more to say.

    Raises:
      ValueError: no integer, whole floats such as 3.0 included, or one below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}{remedy}")
    return number


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
        num_steps = whole("num_steps", num_steps)
        interval = whole("Task.steps_per_epoch", steps_per_epoch, remedy=remedy)
        if evaluation_interval is not None:
            interval = whole("evaluation_interval", evaluation_interval)
        queries = whole("initial_queries", initial_queries, 0)
        return cls(num_steps, interval, queries, _spent_samples(initial_samples))


def _spent_samples(initial_samples: Mapping[str, int] | None) -> dict[str, int]:
    """``{purpose: samples}``, checked."""
    found = {}
    for purpose, count in (initial_samples or {}).items():
        if purpose not in PURPOSES:
            known = ", ".join(PURPOSES)
            raise ValueError(f"initial_samples: unknown purpose {purpose!r} (known: {known})")
        found[purpose] = whole(f"initial_samples[{purpose!r}]", count, 0)
    return found


def check_pause(checkpoint_seconds: float) -> None:
    """Raises ValueError for seconds between checkpoints that are negative or NaN."""
    if not checkpoint_seconds >= 0:
        raise ValueError(
            f"checkpoint_seconds must be a number of seconds of at least 0, got "
            f"{checkpoint_seconds!r}"
        )
