"""Masks in the optimiser: what a coordinate outside the mask may still do."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from deepzero_jax.sampling import check_mask
from deepzero_jax.types import Params, PyTree

if TYPE_CHECKING:
    import optax


def sparse_updates() -> "optax.GradientTransformationExtraArgs":
    """Zeroes updates outside a mask given at every call.

    Put last in a chain it freezes the other coordinates; with a fixed mask on parameters
    pruned by ``prune_params`` it makes the *weights* sparse (FO-GraSP). Estimates are zero
    outside the coordinates already: a sparse *gradient*, whose other coordinates momentum
    and weight decay still move (the paper's setting), needs no transformation.

    Returns:
      A stateless optax transformation whose ``update(updates, state, params, *, mask)``
      takes a boolean pytree like ``params``, true = kept. The mask is an argument, so a
      new one of the same shape recompiles nothing.

    Example:
      >>> import optax
      >>> tx = optax.chain(sparse_updates(), optax.sgd(1.0))
      >>> w = jnp.ones(2)
      >>> updates, _ = tx.update(w, tx.init(w), w, mask=jnp.array([True, False]))
      >>> updates.tolist()
      [-1.0, -0.0]
    """
    import optax  # here: loading it takes long

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        mask: PyTree = None,
        **extra: object,
    ) -> tuple[PyTree, PyTree]:
        del params, extra
        check_mask(mask)
        return prune_params(updates, mask), state

    return optax.GradientTransformationExtraArgs(init, update)


def prune_params(params: Params, mask: PyTree) -> Params:
    """Sets every scalar outside the mask (true = kept) to zero."""
    return jax.tree.map(lambda keep, p: jnp.where(keep, p, jnp.zeros_like(p)), mask, params)
