"""Perturbed passes in chunks: how many go side by side, and the loop over them."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from deepzero_jax.coordinates import valid_length
from deepzero_jax.cost import live_bytes, memory_budget
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.manual_axes import manual_axes, varying_like
from deepzero_jax.types import Array, PyTree

BatchSize = int | str
_LARGEST_CHUNK = 1024
_AUTO = re.compile(r"auto(?:/([1-9]\d*))?")


def check_batch_size(batch_size: BatchSize) -> None:
    """Raises ValueError unless ``batch_size`` is "auto", "auto/n" or a positive integer."""
    if isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1:
        return
    if isinstance(batch_size, str) and _AUTO.fullmatch(batch_size):
        return
    raise ValueError(f"batch_size must be 'auto' or an integer of at least 1, got {batch_size!r}")


def chunk_size(batch_size: BatchSize, fun: Callable[..., PyTree], *args: PyTree) -> int:
    """Number of perturbed passes to run side by side.

    ``"auto"`` fits what one pass ``fun(*args)`` keeps alive into
    ``cost.memory_budget``, ``"auto/2"`` into half of it; both depend on shapes and device
    alone. A pass that is ``Hoisted`` already is not traced again.
    """
    if isinstance(batch_size, int):
        return batch_size
    found = _AUTO.fullmatch(batch_size)
    budget = memory_budget() // int(found[1] or 1) if found else 0
    alive = fun.live_bytes() if isinstance(fun, Hoisted) else live_bytes(fun, *args)
    return max(1, min(_LARGEST_CHUNK, budget // max(alive, 1)))


def map_valid(
    fun: Callable[[jax.Array], jax.Array],
    indices: Array,
    leaf: Array,
    chunk: int,
    dtype: DTypeLike,
    hoist: bool = False,
) -> jax.Array:
    """Maps a scalar function over the valid indices, a chunk at a time.

    Args:
      fun: ``int32 scalar -> scalar of dtype``.
      indices: int32 [n] into ``leaf``, padding at the end.
      leaf: array whose scalars they are.
      chunk: indices evaluated side by side by ``vmap``.
      dtype: of the results.
      hoist: do what does not depend on the index once, before the loop.

    Returns:
      [n]; padding holds zeros or what ``fun`` gives there. Chunks run up to the last valid
      index, so a set that shrinks recompiles nothing.
    """
    count, size = indices.shape[0], np.size(leaf)
    if count == 0:
        return jnp.zeros(0, dtype)
    chunk = min(chunk, count)
    padded_count = -(-count // chunk) * chunk
    padded = jnp.full(padded_count, size, jnp.int32).at[:count].set(indices.astype(jnp.int32))

    def evaluate(part: jax.Array) -> jax.Array:
        values = fun(part[0])[None] if chunk == 1 else jax.vmap(fun)(part)
        return values.astype(dtype)

    run_part = Hoisted(evaluate, padded[:chunk]) if hoist else evaluate

    def run_chunk(position: jax.Array, results: jax.Array) -> jax.Array:
        start = position * chunk
        part = lax.dynamic_slice(padded, (start,), (chunk,))
        return lax.dynamic_update_slice(results, run_part(part), (start,))

    results = jnp.zeros(padded_count, dtype)
    if manual_axes():
        results = varying_like(results, jax.eval_shape(run_chunk, jnp.int32(0), results))
    num_chunks = (valid_length(leaf, padded) + chunk - 1) // chunk
    return lax.fori_loop(0, num_chunks, run_chunk, results)[:count]
