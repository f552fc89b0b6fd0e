"""One training step as pure functions: draw coordinates, estimate, update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from deepzero_jax.coordinates import coordinate_mask
from deepzero_jax.estimators import Estimator, value_and_grad
from deepzero_jax.sampling import Sampler, Selection, Share
from deepzero_jax.sharding import replicate, split_batch
from deepzero_jax.training.task import Task

PyTree = Any


class TrainState(NamedTuple):
    """All that a run carries from step to step; a checkpoint holds exactly this.

    Attributes:
      step: int32, steps done.
      params: parameters.
      model_state: running statistics.
      opt_state: of the optax chain.
      sampler_state: of the sampler.
      key: uint32 [2], raw data of the run's key. Every random draw of a step comes from
        it and the step's number, so data position and masks need no state of their own.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    sampler_state: PyTree
    key: jax.Array


class TrainStep(NamedTuple):
    """The functions of a training step, all pure and jit-able.

    Attributes:
      init: ``(key, params, model_state) -> TrainState``.
      select: ``(state) -> Selection``, the coordinates of the coming step.
      advance: ``(state, selection, data) -> (state, metrics)``; metrics hold ``loss``,
        ``finite``, ``num_coordinates`` and the task's own.
      batch: ``(state, data) -> (model_state, *batch)``, arguments of the task's loss.
      shares: ``(state) -> {leaf path: Share}``, or None where prices are not known.
      place: ``(pytree) -> pytree``, the same values on the step's devices.
    """

    init: Callable[[jax.Array, PyTree, PyTree], TrainState]
    select: Callable[[TrainState], Selection]
    advance: Callable[[TrainState, Selection, PyTree], tuple[TrainState, dict[str, jax.Array]]]
    batch: Callable[[TrainState, PyTree], tuple[Any, ...]]
    shares: Callable[[TrainState], dict[str, Share] | None]
    place: Callable[[PyTree], PyTree]


def _all_finite(tree: PyTree) -> jax.Array:
    finite = jnp.asarray(True)
    for leaf in jax.tree.leaves(tree):
        finite &= jnp.all(jnp.isfinite(leaf))
    return finite


def _count_valid(params: PyTree, coordinates: PyTree) -> jax.Array:
    count = jnp.int32(0)
    for leaf, indices in zip(jax.tree.leaves(params), jax.tree.leaves(coordinates), strict=True):
        count += jnp.sum(indices < jnp.size(leaf))
    return count


def make_step(
    task: Task,
    estimator: Estimator,
    optimizer: optax.GradientTransformationExtraArgs,
    sampler: Sampler,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Builds the training step of a task.

    Args:
      task: the problem.
      estimator: of gradients; ``sharded`` if it is to use the mesh's coordinates axis.
      optimizer: an optax chain that takes ``mask=``.
      sampler: of coordinates.
      mesh: devices; None for one.

    **Cost** of ``advance``: ``num_queries(estimator, params, coordinates)`` queries.
    """
    vg = value_and_grad(task.loss, estimator, has_aux=True)

    def init(key: jax.Array, params: PyTree, model_state: PyTree) -> TrainState:
        run_key, sampler_key = jax.random.split(key)
        return TrainState(
            jnp.int32(0),
            params,
            model_state,
            optimizer.init(params),
            sampler.init(sampler_key),
            jax.random.key_data(run_key),
        )

    def keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
        data_key, estimator_key = jax.random.split(jax.random.wrap_key_data(state.key))
        return data_key, jax.random.fold_in(estimator_key, state.step)

    def batch(state: TrainState, data: PyTree) -> tuple[Any, ...]:
        drawn = task.batch(data, keys(state)[0], state.step)
        return (state.model_state, *(drawn if mesh is None else split_batch(drawn, mesh)))

    def select(state: TrainState) -> Selection:
        return sampler.sample(state.sampler_state, state.step)

    def advance(
        state: TrainState, selection: Selection, data: PyTree
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        coordinates = selection.coordinates
        (loss, (model_state, metrics)), grads = vg(
            state.params, *batch(state, data), key=keys(state)[1], coordinates=coordinates
        )
        sampler_state = sampler.update(state.sampler_state, selection, grads)
        if selection.scales is not None:
            grads = jax.tree.map(lambda g, scale: g * scale, grads, selection.scales)
        updates, opt_state = optimizer.update(
            grads,
            state.opt_state,
            state.params,
            mask=coordinate_mask(state.params, coordinates),
        )
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(state.step + 1, params, model_state, opt_state, sampler_state, state.key)
        count = _count_valid(state.params, coordinates)
        finite = _all_finite((loss, params, model_state))
        return moved, {"loss": loss, "finite": finite, "num_coordinates": count, **metrics}

    def shares(state: TrainState) -> dict[str, Share] | None:
        return None if sampler.shares is None else sampler.shares(state.sampler_state)

    def place(tree: PyTree) -> PyTree:
        return tree if mesh is None else replicate(tree, mesh)

    return TrainStep(init, select, advance, batch, shares, place)
