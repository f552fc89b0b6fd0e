"""Perturbed passes in chunks: how many go side by side, and the loop over them."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core
from jax.typing import DTypeLike

from deepzero_jax.coordinates import valid_length
from deepzero_jax.cost import live_bytes, memory_budget
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.manual_axes import manual_axes
from deepzero_jax.types import Array, PyTree
from deepzero_jax.varying import varying_like

BatchSize = int | str
Carry = TypeVar("Carry", bound=PyTree)
# ``(first item, carry) -> carry``.
RunChunk = Callable[[jax.Array, Carry], Carry]
_LARGEST_CHUNK = 1024
_AUTO = re.compile(r"auto(?:/([1-9]\d*))?")


_advance: ContextVar[Callable[[int], None] | None] = ContextVar("advance", default=None)


@contextmanager
def counting_passes(advance: Callable[[int], None] | None) -> Iterator[None]:
    """Estimates along random directions that are traced inside tell how far they are.

    Args:
      advance: is told, whenever the compiled estimate is run, how many evaluations of the loss
        more are done; called from where it runs, once for a base pass and once for a chunk. Before
        jax 0.12 a program that calls it is not kept in the compilation cache. None: nobody is told.
    """
    token = _advance.set(advance)
    try:
        yield
    finally:
        _advance.reset(token)


def tell_passes(count: jax.Array | int) -> None:
    """In a trace: tells of so many evaluations, where ``counting_passes`` asks for it."""
    advance = _advance.get()
    if advance is not None:
        jax.debug.callback(lambda count: advance(int(count)), jnp.int32(count))


def check_batch_size(batch_size: BatchSize) -> None:
    """Raises ValueError unless ``batch_size`` is "auto", "auto/n" or a positive integer."""
    if isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1:
        return
    if isinstance(batch_size, str) and _AUTO.fullmatch(batch_size):
        return
    raise ValueError(f"batch_size must be 'auto' or an integer of at least 1, got {batch_size!r}")


def chunk_size(batch_size: BatchSize, fun: Callable[..., PyTree], *args: PyTree) -> int:
    """Number of perturbed passes ``fun(*args)`` to run side by side, as ``chunk_of``.

    A pass that is ``Hoisted`` already is not traced again.
    """
    if isinstance(fun, Hoisted):
        return chunk_of(batch_size, fun.live_bytes)
    return chunk_of(batch_size, lambda: live_bytes(fun, *args))


def chunk_of(batch_size: BatchSize, alive: Callable[[], int]) -> int:
    """Number of perturbed passes to run side by side.

    ``"auto"`` fits what one pass keeps ``alive``, in bytes, into ``cost.memory_budget``,
    ``"auto/2"`` into half of it; both depend on shapes and device alone.
    """
    if isinstance(batch_size, int):
        return batch_size
    found = _AUTO.fullmatch(batch_size)
    budget = memory_budget() // int(found[1] or 1) if found else 0
    return max(1, min(_LARGEST_CHUNK, budget // max(alive(), 1)))


def repeat(number: jax.Array | int, turn: RunChunk[Carry], start: Carry) -> Carry:
    """``lax.fori_loop`` from 0, which outside ``jit`` leaves nothing behind."""
    if isinstance(number, int):
        return alone(lambda carry: lax.fori_loop(0, number, turn, carry), start)
    return alone(lambda number, carry: lax.fori_loop(0, number, turn, carry), number, start)


def alone(loop: Callable[..., Carry], *args: PyTree) -> Carry:
    """Runs a loop; outside ``jit`` as a program of its own.

    Of a loop that is run by itself JAX keeps the program for ever, about 1.5 MB; of a function
    that is compiled, as long as there is the function.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args)):
        return loop(*args)
    closed, shapes = jax.make_jaxpr(loop, return_shape=True)(*args)
    if any(isinstance(const, Tracer) for const in closed.consts):
        return loop(*args)

    # What the loop closes over are operands: as constants they would be part of the program.
    def run(consts: list[jax.Array], flat: list[jax.Array]) -> list[jax.Array]:
        return core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, consts))(*flat)

    found = jax.jit(run)(closed.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def map_valid(
    fun: Callable[[jax.Array], jax.Array],
    indices: Array,
    leaf: Array,
    chunk: int,
    dtype: DTypeLike,
    hoist: bool = False,
    exact: bool = False,
    length: jax.Array | int | None = None,
) -> jax.Array:
    """Maps a scalar function over the valid indices, a chunk at a time.

    Args:
      fun: ``int32 scalar -> scalar of dtype``.
      indices: int32 [n] into ``leaf``, padding at the end.
      leaf: array whose scalars they are.
      chunk: indices evaluated side by side by ``vmap``.
      dtype: of the results.
      hoist: do what does not depend on the index once, before the loop.
      exact: never evaluate padding, not even to fill up a chunk; smaller chunks do the rest.
      length: number of valid indices, where it is known.

    Returns:
      [n]; padding holds zeros or what ``fun`` gives there. Chunks run up to the last valid
      index, so a set that shrinks recompiles nothing.
    """
    count, size = indices.shape[0], np.size(leaf)
    if count == 0:
        return jnp.zeros(0, dtype)
    chunk = min(chunk, count)
    padded = _filled_up(indices, size, chunk)

    def evaluate(part: jax.Array) -> jax.Array:
        values = fun(part[0])[None] if part.shape[0] == 1 else jax.vmap(fun)(part)
        return values.astype(dtype)

    def chunks_of(size: int) -> RunChunk[jax.Array]:
        run_part = Hoisted(evaluate, padded[:size]) if hoist else evaluate

        def run_chunk(start: jax.Array, results: jax.Array) -> jax.Array:
            part = lax.dynamic_slice(padded, (start,), (size,))
            return lax.dynamic_update_slice(results, run_part(part), (start,))

        return run_chunk

    results = jnp.zeros(padded.shape, dtype)
    length = valid_length(leaf, padded) if length is None else length
    if exact:
        return run_exactly(chunks_of, length, count, chunk, results)[:count]
    run_chunk = chunks_of(chunk)
    results = varying_like_chunks(run_chunk, results)
    number = (length + chunk - 1) // chunk
    return repeat(number, lambda i, found: run_chunk(i * chunk, found), results)[:count]


def map_joined(
    fun: Callable[[jax.Array, jax.Array], jax.Array],
    indices: Sequence[Array],
    leaves: Sequence[Array],
    chunk: int,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Maps a function over the valid indices of several leaves, all in one loop.

    Args:
      fun: ``(number of the leaf, int32 [chunk]) -> [chunk] of dtype``.
      indices: int32 [n] into each leaf, padding at the end.
      leaves: arrays whose scalars they are.
      chunk: indices side by side, of one leaf.
      dtype: of the results.

    Returns:
      [n] for each leaf, as ``map_valid`` does.
    """
    pairs = zip(indices, leaves, strict=True)
    filled = [_filled_up(part, np.size(leaf), chunk) for part, leaf in pairs]
    every = jnp.concatenate(filled)
    offsets = np.cumsum([0, *(part.shape[0] for part in filled)], dtype=np.int32)[:-1]
    lengths = jnp.stack(
        [
            jnp.asarray(valid_length(leaf, part), jnp.int32)
            for leaf, part in zip(leaves, filled, strict=True)
        ]
    )
    # Batched, the choice of a leaf would become the evaluation of all of them.
    numbers = _unbatched((lengths + chunk - 1) // chunk)
    ends = jnp.cumsum(numbers)

    def run_chunk(place: jax.Array, results: jax.Array) -> jax.Array:
        leaf = jnp.sum(place >= ends, dtype=jnp.int32)
        start = jnp.asarray(offsets)[leaf] + (place - (ends - numbers)[leaf]) * chunk
        part = lax.dynamic_slice(every, (start,), (chunk,))
        found = fun(leaf, part).astype(dtype)
        return lax.dynamic_update_slice(results, found, (start,))

    results = repeat(ends[-1], run_chunk, jnp.zeros(every.shape, dtype))
    return [
        results[start : start + part.shape[0]] for start, part in zip(offsets, indices, strict=True)
    ]


def _filled_up(indices: Array, size: int, chunk: int) -> jax.Array:
    """Indices, with padding up to whole chunks: the number of scalars, which is no index."""
    count = indices.shape[0]
    padded = jnp.full(-(-count // chunk) * chunk, size, jnp.int32)
    return padded.at[:count].set(indices.astype(jnp.int32))


def varying_like_chunks(run_chunk: RunChunk[Carry], start: Carry) -> Carry:
    """What a loop over chunks starts with, varying over mesh axes as what comes out of them."""
    if not manual_axes():
        return start
    return varying_like(start, jax.eval_shape(run_chunk, jnp.int32(0), start))


def run_exactly(
    chunks_of: Callable[[int], RunChunk[Carry]],
    count: jax.Array | int,
    most: int,
    chunk: int,
    start: Carry,
) -> Carry:
    """Runs items 0 to ``count`` in chunks, and none beyond: what a black box is asked is charged.

    A rest goes in one chunk where it is the rest of all ``most`` items, otherwise in chunks
    eight, 64, … times smaller, down to single items.

    Args:
      chunks_of: ``(size) -> (first item, carry) -> carry``.
      count: of items; a Python integer where it is known. Under ``vmap``, of items whose
        numbers differ, all run as many as the most.
      most: largest count.
      chunk: items side by side.
      start: first carry.

    **Cost**: the programs of log₈(chunk) + 2 sizes are compiled where ``count`` is not known.
    """
    # Made where it is traced: what a chunk does before its loop would ask already.
    carry = varying_like_chunks(lambda first, carry: chunks_of(1)(first, carry), start)
    left = _unbatched(count) if isinstance(count, Tracer) else int(count)
    done: jax.Array | int = 0
    for size in _sizes(chunk, most):
        number = left // size

        def loop(
            carry: Carry,
            size: int = size,
            done: jax.Array | int = done,
            number: jax.Array | int = number,
        ) -> Carry:
            run_chunk = chunks_of(size)
            return repeat(number, lambda i, c: run_chunk(done + i * size, c), carry)

        if not isinstance(number, int):
            # What is hoisted out of the loop may ask too, so the whole of it is conditional.
            carry = lax.cond(number > 0, loop, lambda carry: carry, carry)
        elif number:
            carry = loop(carry)
        done, left = done + number * size, left - number * size
    return carry


def _sizes(chunk: int, most: int) -> list[int]:
    sizes = {chunk, most % chunk or 1}
    while chunk > 1:
        chunk //= 8
        sizes.add(max(chunk, 1))
    return sorted(sizes | {1}, reverse=True)


@jax.custom_batching.custom_vmap
def _unbatched(count: jax.Array) -> jax.Array:
    return count


@_unbatched.def_vmap
def _largest(
    axis_size: int, in_batched: Sequence[bool], count: jax.Array
) -> tuple[jax.Array, bool]:
    """Loops and branches over a batched count would run for every member of the batch."""
    del axis_size
    return _unbatched(jnp.max(count, axis=0) if in_batched[0] else count), False
