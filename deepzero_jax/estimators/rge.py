"""Randomised gradient estimation: finite differences along random directions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.coordinates import coordinate_mask
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.base_pass import (
    REUSE_OF_DIRECTIONS,
    BasePass,
    check_delta_dtype,
    run_base_pass,
)
from deepzero_jax.estimators.cge import check_smoothing
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, chunk_size
from deepzero_jax.estimators.contract import Estimator, Loss

PyTree = Any


def rge(
    *,
    smoothing: float = 1e-4,
    num_directions: int = 192,
    distribution: str = "normal",
    reuse: str = "difference",
    delta_dtype: Any = None,
    batch_size: BatchSize = "auto",
) -> Estimator:
    r"""Randomised gradient estimator: $g = \frac1q \sum_j \frac{f(θ + μ u_j) - f(θ)}{μ} u_j$.

    Direction j is regenerated from ``fold_in(key, j)`` wherever it is needed, so no more
    than one chunk of directions exists at a time.

    Args:
      smoothing: μ, the length of the step along u, in units of the parameters.
      num_directions: q, the number of random directions.
      distribution: of u. ``"normal"``: standard normal. ``"rademacher"``: ±1.
        ``"sphere"``: uniform on the unit sphere of the active coordinates, the estimate
        multiplied by their number d. ``"tensor_sphere"``: unit length in every leaf and
        no factor, as in DeepZero's released code.
      reuse: ``"difference"``: the difference is propagated beside one base pass and does
        not cancel. ``"none"``: the loss is evaluated at θ + μ u and subtracted.
      delta_dtype: of the operands of matrix products and convolutions of deltas, with
        ``reuse="difference"``: None for their own, or ``jnp.bfloat16``.
      batch_size: perturbed passes side by side, or ``"auto"``.

    Returns:
      An ``Estimator`` for ``value_and_grad``; it needs a key.

    Raises:
      ValueError: smoothing not above 0, no direction, unknown distribution.

    **Cost**: q + 1 queries, whatever the number of coordinates.
    Source: DeepZero, equation (1) (arXiv 2310.02025).

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp
      >>> vg = dz.value_and_grad(jnp.sum, dz.rge(smoothing=1e-2, num_directions=4000))
      >>> _, grads = vg(jnp.zeros(2), key=jax.random.key(0))
      >>> bool(jnp.all(jnp.abs(grads - 1) < 0.1))
      True
    """
    check_smoothing(smoothing)
    check_batch_size(batch_size)
    if not (isinstance(num_directions, int) and num_directions >= 1):
        raise ValueError(f"num_directions must be an integer of at least 1, got {num_directions!r}")
    if distribution not in _DISTRIBUTIONS:
        raise ValueError(
            f"distribution must be one of {sorted(_DISTRIBUTIONS)}, got {distribution!r}"
        )

    if reuse not in REUSE_OF_DIRECTIONS:
        raise ValueError(f"reuse must be one of {list(REUSE_OF_DIRECTIONS)}, got {reuse!r}")
    check_delta_dtype(delta_dtype)

    def summand(
        loss: Loss,
        params: PyTree,
        key: jax.Array,
        coordinates: PyTree | None,
        part: jax.Array | int,
        num_parts: int,
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        """The directions ``part``, ``part + num_parts``, … of the sum, divided by q."""
        params = jax.tree.map(jnp.asarray, params)
        propagated = reuse == "difference"
        base = run_base_pass(loss, params, delta_dtype) if propagated else _subtracted(loss, params)
        mask = None if coordinates is None else coordinate_mask(params, coordinates)

        def term(index: jax.Array) -> PyTree:
            """Contribution of this part's direction ``index``; zero from q on."""
            index = index * num_parts + part
            direction, factor = _direction(
                jax.random.fold_in(key, index), params, mask, distribution
            )
            slope = base.delta([smoothing * u for u in jax.tree.leaves(direction)]) / smoothing
            slope = jnp.where(index < num_directions, slope, 0.0)
            return jax.tree.map(lambda u: (factor * slope * u).astype(u.dtype), direction)

        one = Hoisted(term, jnp.int32(0)) if propagated else term
        count = -(-num_directions // num_parts)
        chunk = min(chunk_size(batch_size, one, jnp.int32(0)), count)
        total = _sum_terms(term, params, count, chunk)
        return (base.value, base.aux), jax.tree.map(lambda g: g / num_directions, total)

    def estimate(
        loss: Loss, params: PyTree, key: jax.Array, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        return summand(loss, params, key, coordinates, 0, 1)

    num_queries = lambda count: 1 + num_directions
    return Estimator("rge", estimate, num_queries, needs_key=True, summand=summand)


def _subtracted(loss: Loss, params: PyTree) -> BasePass:
    """The loss at the base, and differences as two evaluations subtracted."""
    value, aux = loss.value_and_aux(params)
    leaves, treedef = jax.tree.flatten(params)

    def delta(deltas: Sequence[Any]) -> jax.Array:
        moved = [leaf + d for leaf, d in zip(leaves, deltas, strict=True)]
        return loss(treedef.unflatten(moved)) - value

    return BasePass(value, aux, delta)


def _sum_terms(
    term: Callable[[jax.Array], PyTree], params: PyTree, num_directions: int, chunk: int
) -> PyTree:
    def add_chunk(position: jax.Array, total: PyTree) -> PyTree:
        if chunk == 1:
            return jax.tree.map(jnp.add, total, term(position))
        terms = jax.vmap(term)(position * chunk + jnp.arange(chunk))
        return jax.tree.map(lambda t, new: t + jnp.sum(new, axis=0), total, terms)

    zeros = jax.tree.map(jnp.zeros_like, params)
    return lax.fori_loop(0, -(-num_directions // chunk), add_chunk, zeros)


def _direction(
    key: jax.Array, params: PyTree, mask: PyTree | None, distribution: str
) -> tuple[PyTree, jax.Array | float]:
    """A random direction over the active coordinates, and the factor its slope is scaled by."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    draw = _DISTRIBUTIONS[distribution]
    drawn = [draw(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=False)]
    if mask is not None:
        kept = treedef.flatten_up_to(mask)
        drawn = [jnp.where(keep, u, 0) for keep, u in zip(kept, drawn, strict=True)]
        active: Any = sum(jnp.sum(keep) for keep in kept)
    else:
        active = float(sum(np.size(leaf) for leaf in leaves))
    if distribution == "tensor_sphere":
        return treedef.unflatten([_unit([u])[0] for u in drawn]), 1.0
    if distribution == "sphere":
        return treedef.unflatten(_unit(drawn)), active
    return treedef.unflatten(drawn), 1.0


def _unit(vectors: list[jax.Array]) -> list[jax.Array]:
    squared = jnp.asarray(sum(jnp.sum(jnp.square(u)) for u in vectors))
    norm = jnp.sqrt(jnp.where(squared == 0, 1.0, squared))
    return [(u / norm).astype(u.dtype) for u in vectors]


_DISTRIBUTIONS: dict[str, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "sphere": jax.random.normal,
    "tensor_sphere": jax.random.normal,
    "rademacher": jax.random.rademacher,
}
