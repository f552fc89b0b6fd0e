"""What a sampler is: which coordinates a step perturbs, as pure functions with explicit state."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from deepzero_jax.coordinates import all_coordinates, leaf_sizes
from deepzero_jax.types import Key, Params, PyTree


class Selection(NamedTuple):
    """What a sampler hands to an estimator.

    Attributes:
      coordinates: pytree like the parameters, int32 [n] of flat indices a leaf.
      scales: pytree like the parameters of scalars that multiply the estimates of a
        leaf, or None for no scaling.
    """

    coordinates: PyTree
    scales: PyTree | None = None


class Spending(NamedTuple):
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
      spending: ``(state) -> {leaf path: Spending}`` for the plan, where prices are known.
      name: for messages.
      sizes: ``{leaf path: numbers in it}`` of the parameters that it is made for, by which
        those of a training step are checked; None: nobody knows.
    """

    init: Callable[[Key], PyTree]
    sample: Callable[[PyTree, jax.Array], Selection]
    update: Callable[[PyTree, Selection, PyTree], PyTree]
    spending: Callable[[PyTree], dict[str, Spending]] | None = None
    name: str = "sampler"
    sizes: Mapping[str, int] | None = None

    def __repr__(self) -> str:
        """The name, and whether prices are known."""
        return f"{self.name}({'priced' if self.spending else ''})"


def keep_state(state: PyTree, selection: Selection, grads: PyTree) -> PyTree:
    """The ``update`` of a sampler that learns nothing."""
    del selection, grads
    return state


def fixed_sampler(coordinates: PyTree) -> Sampler:
    """The same coordinates at every step."""
    sample = lambda state, step: Selection(coordinates)
    return Sampler(lambda key: (), sample, keep_state, name="fixed_sampler")


def dense_sampler(params: Params) -> Sampler:
    """Every coordinate at every step."""
    return fixed_sampler(all_coordinates(params))._replace(sizes=leaf_sizes(params))
