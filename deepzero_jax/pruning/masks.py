"""Masks in the optimiser: what a coordinate outside the mask may still do."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def sparse_updates() -> optax.GradientTransformationExtraArgs:
    """Zeroes updates outside a mask given at every call.

    Put first in a chain it makes the *gradient* sparse: momentum and weight decay still
    move the other coordinates (the paper's setting). Put last it freezes them. Put last
    with a fixed mask on parameters pruned by ``prune_params``, it makes the *weights*
    sparse (FO-GraSP).

    Returns:
      A stateless optax transformation whose ``update(updates, state, params, *, mask)``
      takes a boolean pytree like ``params``, true = kept. The mask is an argument, so a
      new one of the same shape recompiles nothing.

    Example:
      >>> tx = optax.chain(sparse_updates(), optax.sgd(1.0))
      >>> w = jnp.ones(2)
      >>> updates, _ = tx.update(w, tx.init(w), w, mask=jnp.array([True, False]))
      >>> updates.tolist()
      [-1.0, -0.0]
    """

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, Any]:
        del params
        return prune_params(updates, extra["mask"]), state

    return optax.GradientTransformationExtraArgs(init, update)


def prune_params(params: PyTree, mask: PyTree) -> PyTree:
    """Sets every scalar outside the mask (true = kept) to zero."""
    return jax.tree.map(lambda keep, p: jnp.where(keep, p, jnp.zeros_like(p)), mask, params)
