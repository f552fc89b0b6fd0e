"""What a sampler is: which coordinates a step perturbs, as pure functions with explicit state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from deepzero_jax.coordinates import all_coordinates

PyTree = Any


class Selection(NamedTuple):
    """What a sampler hands to an estimator.

    Attributes:
      coordinates: pytree like the parameters, int32 [n] of flat indices a leaf.
      scales: pytree like the parameters of scalars that multiply the estimates of a
        leaf, or None for no scaling.
    """

    coordinates: PyTree
    scales: PyTree | None = None


class Share(NamedTuple):
    """What a sampler spends on a leaf.

    Attributes:
      price: of one coordinate.
      rate: fraction of the leaf's coordinates that a step perturbs, on average.
      share: of the price of the whole step.
    """

    price: float
    rate: float
    share: float


class Sampler(NamedTuple):
    """A rule for choosing coordinates: pure functions.

    Attributes:
      init: ``(key) -> state``.
      sample: ``(state, step) -> Selection``; jit-able, its shapes never change.
      update: ``(state, selection, grads) -> state``, after the estimate is made; ``grads``
        before scaling.
      shares: ``(state) -> {leaf path: Share}`` for the plan, where prices are known.
    """

    init: Callable[[jax.Array], PyTree]
    sample: Callable[[PyTree, jax.Array], Selection]
    update: Callable[[PyTree, Selection, PyTree], PyTree]
    shares: Callable[[PyTree], dict[str, Share]] | None = None


def keep_state(state: PyTree, selection: Selection, grads: PyTree) -> PyTree:
    """The ``update`` of a sampler that learns nothing."""
    del selection, grads
    return state


def fixed_sampler(coordinates: PyTree) -> Sampler:
    """The same coordinates at every step."""
    return Sampler(lambda key: (), lambda state, step: Selection(coordinates), keep_state)


def dense_sampler(params: PyTree) -> Sampler:
    """Every coordinate at every step."""
    return fixed_sampler(all_coordinates(params))
