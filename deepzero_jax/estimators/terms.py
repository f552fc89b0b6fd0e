"""The sum over random directions of what each adds to an estimate."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.estimators.chunks import (
    RunChunk,
    repeat,
    run_exactly,
    tell_passes,
    varying_like_chunks,
)


class Term(NamedTuple):
    """What a direction adds to an estimate, or the sum of several.

    Attributes:
      parts: of the gradient, by leaf.
      lost: 1 if it is dropped.
      shares: in ``parts``, of the loss at the base, where that is asked for.
      still: the difference at the base, of a direction that does not count: XLA rounds inside of
        two programs differently, so it need not be 0.
      num_still: 1 for such a one.
    """

    parts: Sequence[jax.Array]
    lost: jax.Array
    shares: Sequence[jax.Array] = ()
    still: jax.Array | float = 0.0
    num_still: jax.Array | int = 0

    def from_base(self) -> Sequence[jax.Array]:
        """The gradient, with the loss at the base as the others are computed."""
        if not self.shares:
            return self.parts
        still = self.still / self.num_still
        return [part - still * share for part, share in zip(self.parts, self.shares, strict=True)]


def sum_terms(
    term: Callable[[jax.Array], Term],
    like: Term,
    num_directions: int,
    chunk: int,
    exactly: jax.Array | int | None,
    passes: int,
) -> Term:
    """The sum of terms, in chunks; the last is filled up with zeros, unless ``exactly`` many.

    Each takes so many ``passes``. What is ``like`` a leaf of 16 bits is summed in 32. With shares,
    at least one term is at the base: where all go together, one more.
    """

    def chunks_of(size: int) -> RunChunk[Term]:
        def add_chunk(start: jax.Array, total: Term) -> Term:
            if passes:
                tell_passes(passes * jnp.clip(num_directions - start, 0, size))
            if size == 1:
                return jax.tree.map(jnp.add, total, term(start))
            terms = jax.vmap(term)(start + jnp.arange(size))
            return jax.tree.map(lambda t, new: t + jnp.sum(new, 0, t.dtype), total, terms)

        return add_chunk

    zeros = jax.tree.map(lambda a: jnp.zeros_like(a, wide_dtype(jnp.result_type(a))), like)
    if exactly is not None:
        return run_exactly(chunks_of, exactly, num_directions, chunk, zeros)
    with_base = bool(like.shares)
    chunk += with_base and chunk == num_directions
    add_chunk = chunks_of(chunk)
    zeros = varying_like_chunks(add_chunk, zeros)
    num_chunks = -(-(num_directions + with_base) // chunk)
    return repeat(num_chunks, lambda i, total: add_chunk(i * chunk, total), zeros)
