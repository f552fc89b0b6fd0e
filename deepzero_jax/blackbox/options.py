"""What may be chosen for a black box, checked when it is made."""

import math
import numbers
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np

from deepzero_jax.counts import check_count
from deepzero_jax.types import PyTree

OnFailure = Literal["raise", "nan"]
# Threads, an executor, or a callable like ``map``.
Workers = int | Executor | Callable[..., PyTree]


@dataclass(frozen=True)
class Options:
    """The choices of ``black_box``; see there.

    Raises:
      TypeError, ValueError: naming the option, what came and what is allowed.
    """

    workers: Workers | None
    max_batch: int | None
    timeout: float | None
    retries: int
    backoff: float
    on_failure: OnFailure
    thread_safe: bool | None
    batched: bool

    def __post_init__(self) -> None:
        if self.max_batch is not None:
            object.__setattr__(self, "max_batch", check_count("max_batch", self.max_batch))
        object.__setattr__(self, "retries", check_count("retries", self.retries, 0))
        check_seconds("timeout", self.timeout, positive=True, optional=True)
        check_seconds("backoff", self.backoff, positive=False)
        if self.on_failure not in get_args(OnFailure):
            raise ValueError(f"on_failure must be 'raise' or 'nan', got {self.on_failure!r}")
        check_flag("batched", self.batched)
        if self.thread_safe is not None:
            check_flag("thread_safe", self.thread_safe)
        self._check_workers()
        if not self.batched and self.max_batch not in (None, 1):
            raise ValueError(
                f"max_batch={self.max_batch} with batched=False: such a box takes one sample a "
                "call; leave max_batch out"
            )

    def _check_workers(self) -> None:
        workers = self.workers
        if workers is None or isinstance(workers, Executor):
            return
        if isinstance(workers, numbers.Number | np.ndarray | jax.Array):
            workers = check_count("workers", workers)  # pyright: ignore[reportArgumentType]
            object.__setattr__(self, "workers", workers)
            if workers != 1 and self.thread_safe is False:
                raise ValueError(
                    f"workers={workers} runs the host function in several threads at once: "
                    "give thread_safe=True, or processes (concurrent.futures.ProcessPoolExecutor)"
                )
        elif not callable(workers):
            raise TypeError(
                "workers must be a number of threads, a concurrent.futures.Executor or a callable "
                f"like map, got {workers!r}"
            )

    @property
    def is_thread_safe(self) -> bool:
        """Whether the host function may run twice at once in this process."""
        if self.thread_safe is None:
            return isinstance(self.workers, int) and self.workers > 1
        return self.thread_safe


def check_seconds(name: str, value: object, positive: bool, optional: bool = False) -> None:
    """Raises ValueError unless ``value`` is a finite number, above 0 where ``positive``."""
    if optional and value is None:
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    seconds = float(value) if is_number else math.nan  # pyright: ignore[reportArgumentType]
    if not math.isfinite(seconds) or seconds < 0 or (positive and seconds == 0):
        least = "above 0" if positive else "of at least 0"
        raise ValueError(f"{name} must be a finite number of seconds {least}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raises ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
