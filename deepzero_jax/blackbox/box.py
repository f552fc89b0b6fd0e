"""A function that can only be queried: batching, time limits, retries, budget, accounting."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HostFunction = Callable[[np.ndarray], Any]


class BlackBoxError(RuntimeError):
    """The box gave no usable answer; the message names the call and what to do."""


def _not_a_black_box_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], BlackBoxError))


# JAX logs the traceback of a failed callback, and then raises it: a user would read it twice.
logging.getLogger("jax._src.callback").addFilter(_not_a_black_box_error)


class BlackBox:
    """A query-only function of batches, made by ``black_box``.

    Attributes:
      num_samples: samples answered so far; set it when a run is resumed.
      num_calls: of the host function, failed ones included.
    """

    def __init__(
        self,
        host_fn: HostFunction,
        output_shape: tuple[int, ...],
        dtype: Any,
        max_batch: int | None,
        timeout: float | None,
        retries: int,
        backoff: float,
        budget: int | None,
    ) -> None:
        self._host_fn = host_fn
        self._output_shape, self._dtype = output_shape, np.dtype(dtype)
        self._max_batch, self._timeout = max_batch, timeout
        self._retries, self._backoff, self._budget = retries, backoff, budget
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self.num_samples = 0
        self.num_calls = 0

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Queries the box with ``inputs`` [n, …]; the answers [n, *output_shape].

        Under ``vmap`` all copies are asked in one batch. Differentiating raises.
        """
        inputs = jnp.asarray(inputs)
        if inputs.ndim == 0:
            raise ValueError("a black box takes batches: inputs need a first axis of samples")
        result = jax.ShapeDtypeStruct((inputs.shape[0], *self._output_shape), self._dtype)
        sample_ndim = inputs.ndim - 1
        return jax.pure_callback(
            lambda batch: self._answer(np.asarray(batch), sample_ndim),
            result,
            inputs,
            vmap_method="expand_dims",
        )

    def _answer(self, batch: np.ndarray, sample_ndim: int) -> np.ndarray:
        """Answers for samples under any number of leading axes."""
        leading = batch.shape[: batch.ndim - sample_ndim]
        samples = batch.reshape(-1, *batch.shape[batch.ndim - sample_ndim :])
        step = self._max_batch or max(len(samples), 1)
        with self._lock:
            parts = [self._ask(samples[i : i + step]) for i in range(0, len(samples), step)]
        answers = np.concatenate(parts) if parts else np.zeros((0, *self._output_shape))
        return answers.reshape(*leading, *self._output_shape).astype(self._dtype)

    def _ask(self, samples: np.ndarray) -> np.ndarray:
        """One call, tried again when it fails."""
        if self._budget is not None and self.num_samples + len(samples) > self._budget:
            raise BlackBoxError(
                f"the budget of {self._budget:,} samples does not hold {len(samples):,} more after "
                f"{self.num_samples:,}; give a larger budget to go on"
            )
        reason = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(self._backoff * 2 ** (attempt - 1))
            self.num_calls += 1
            try:
                answers = np.asarray(self._call(samples))
                self._check(answers, len(samples))
            except FutureTimeoutError:
                reason = f"no answer within {self._timeout} s"
                self._pool = None  # its thread is still waiting
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                self.num_samples += len(samples)
                return answers
        often = f" {self._retries + 1} times in a row; the last time" if self._retries else ""
        raise BlackBoxError(
            f"call {self.num_calls:,} of the black box, with {len(samples):,} samples, failed"
            f"{often}: {reason}"
        )

    def _call(self, samples: np.ndarray) -> Any:
        if self._timeout is None:
            return self._host_fn(samples)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1)
        return self._pool.submit(self._host_fn, samples).result(self._timeout)

    def _check(self, answers: np.ndarray, count: int) -> None:
        expected = (count, *self._output_shape)
        if answers.shape != expected:
            raise ValueError(f"answers must have shape {expected}, got {answers.shape}")
        if not np.all(np.isfinite(answers)):
            number = int(np.sum(~np.isfinite(answers).reshape(count, -1).all(axis=1)))
            raise ValueError(f"{number} of {count} answers are not finite")


def black_box(
    host_fn: HostFunction,
    output_shape: tuple[int, ...],
    *,
    dtype: Any = jnp.float32,
    max_batch: int | None = None,
    timeout: float | None = None,
    retries: int = 2,
    backoff: float = 0.5,
    budget: int | None = None,
) -> BlackBox:
    """Wraps a host function so that a JAX function can query it, and do nothing else with it.

    Args:
      host_fn: ``(numpy [n, …]) -> array [n, *output_shape]``, deterministic; it must not
        call JAX. Any n from 1 to ``max_batch`` may come.
      output_shape: of the answer to one sample.
      dtype: of the answers inside JAX.
      max_batch: samples a call at most; None: all at once.
      timeout: seconds that a call may take; None: for ever.
      retries: further attempts after a call that raised, took too long, or answered in a
        wrong shape or with values that are not finite.
      backoff: seconds before the first further attempt; they double each time.
      budget: samples that may be asked in all; None: no limit.

    Returns:
      A ``BlackBox``: ``box(inputs [n, …]) -> [n, *output_shape]``, usable under jit, vmap
      and scan. ``jax.grad`` through it raises.

    Raises:
      ValueError: a limit out of range; at the call, BlackBoxError inside JAX's own error.

    **Cost**: every evaluation of n samples is n samples of the budget; under ``vmap``,
    as many calls as ``max_batch`` demands.

    Example:
      >>> import deepzero_jax as dz, numpy as np
      >>> box = dz.black_box(lambda x: x.sum(axis=1, keepdims=True), (1,))
      >>> jax.jit(jax.vmap(box))(jnp.ones((4, 2, 3))).shape, box.num_samples, box.num_calls
      ((4, 2, 1), 8, 1)
    """
    for name, value, least in (
        ("max_batch", max_batch, 1),
        ("retries", retries, 0),
        ("budget", budget, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if (timeout is not None and not timeout > 0) or backoff < 0:
        raise ValueError(f"timeout and backoff must be positive, got {timeout} and {backoff}")
    return BlackBox(
        host_fn, tuple(output_shape), dtype, max_batch, timeout, retries, backoff, budget
    )
