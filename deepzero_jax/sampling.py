"""Samplers: which coordinates a step perturbs, as pure functions with explicit state."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from deepzero_jax.coordinates import all_coordinates, check_ratios, sample_coordinates

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


class Sampler(NamedTuple):
    """A rule for choosing coordinates: three pure functions.

    Attributes:
      init: ``(key) -> state``.
      sample: ``(state, step) -> Selection``; jit-able, its shapes never change.
      update: ``(state, selection, grads) -> state``, after the estimate is made.
    """

    init: Callable[[jax.Array], PyTree]
    sample: Callable[[PyTree, jax.Array], Selection]
    update: Callable[[PyTree, Selection, PyTree], PyTree]


def _keep_state(state: PyTree, selection: Selection, grads: PyTree) -> PyTree:
    del selection, grads
    return state


def layer_ratio_sampler(params: PyTree, ratios: Mapping[str, float], interval: int) -> Sampler:
    """Random coordinates at layer-wise pruning ratios, redrawn every ``interval`` steps.

    Args:
      params: pytree of arrays or of their shapes.
      ratios: ``{leaf path: pruned fraction}``, from ``layer_ratios``; a leaf not named is
        kept whole.
      interval: steps between draws, at least 1.

    Raises:
      ValueError: ratios of another model, or an interval below 1.

    Source: DeepZero, algorithm 1.
    """
    check_ratios(params, ratios)
    if interval < 1:
        raise ValueError(f"interval must be at least 1 step, got {interval}")

    def sample(state: jax.Array, step: jax.Array) -> Selection:
        key = jax.random.fold_in(jax.random.wrap_key_data(state), step // interval)
        return Selection(sample_coordinates(key, params, ratios))

    return Sampler(jax.random.key_data, sample, _keep_state)


def fixed_sampler(coordinates: PyTree) -> Sampler:
    """The same coordinates at every step."""
    return Sampler(lambda key: (), lambda state, step: Selection(coordinates), _keep_state)


def dense_sampler(params: PyTree) -> Sampler:
    """Every coordinate at every step."""
    return fixed_sampler(all_coordinates(params))
