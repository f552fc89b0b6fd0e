"""One training step as pure functions: draw coordinates, estimate, update."""

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from deepzero_jax.coordinates import coordinate_mask, leaf_paths, leaf_sizes, num_valid
from deepzero_jax.estimators import Estimator, Loss, num_queries, value_and_grad
from deepzero_jax.keys import key_of, words_of
from deepzero_jax.sampling import Sampler, Selection, Spending
from deepzero_jax.sharding import everywhere, replicate, split_batch
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.optimizer import check_optimizer, update
from deepzero_jax.training.task import Task, checked_aux
from deepzero_jax.types import Key, Params, PyTree

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that a run carries from step to step; a checkpoint holds exactly this.

    Attributes:
      step: int32, steps done.
      params: parameters.
      model_state: running statistics.
      opt_state: of the optax chain.
      sampler_state: of the sampler.
      key: uint32 [2], words of the run's key. Every random draw of a step comes from
        it and the step's number, so data position and masks need no state of their own.
    """

    step: jax.Array
    params: Params
    model_state: PyTree
    opt_state: PyTree
    sampler_state: PyTree
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The training step of a task; its methods are pure.

    Attributes:
      task: the problem.
      estimator: of gradients; ``sharded`` if it is to use the mesh's coordinates axis.
      optimizer: an optax transformation, from ``make_optimizer`` for one; if it takes extra
        arguments it is told the ``mask`` of the step's coordinates, the loss as ``value`` and the
        estimate as ``grad``. One that wants the loss itself (``value_fn``) is refused.
      sampler: of coordinates.
      mesh: devices; None for one.

    **Cost** of ``advance``: ``num_queries(estimator, params, coordinates)`` queries.
    """

    task: Task
    estimator: Estimator
    optimizer: optax.GradientTransformation
    sampler: Sampler
    mesh: Mesh | None = None

    def init(self, key: Key, params: Params, model_state: PyTree) -> TrainState:
        """The state at step 0; consumes the key.

        Raises:
          ValueError: a sampler of other parameters, or two leaves of one path.
          TypeError: an optimiser that wants more than a step can tell it.
        """
        self._check_sampler(params)
        leaf_paths(model_state)  # by which checkpoints hold it
        opt_state = self.optimizer.init(params)
        check_optimizer(self.optimizer, params, opt_state)
        run_key, sampler_key = jax.random.split(key)
        return TrainState(
            jnp.int32(0),
            params,
            model_state,
            opt_state,
            self.sampler.init(sampler_key),
            words_of(run_key),
        )

    def batch(self, state: TrainState, data: PyTree) -> tuple[PyTree, ...]:
        """Arguments of the task's loss: ``(model_state, *batch)``."""
        drawn = self.task.checked_batch(data, _keys(state)[0], state.step)
        return (state.model_state, *(drawn if self.mesh is None else split_batch(drawn, self.mesh)))

    def select(self, state: TrainState) -> Selection:
        """The coordinates of the coming step; jit-able."""
        return self.sampler.sample(state.sampler_state, state.step)

    def advance(
        self, state: TrainState, selection: Selection, data: PyTree
    ) -> tuple[TrainState, Metrics]:
        """The next state; metrics hold ``loss``, ``finite``, ``num_coordinates``, the task's own.

        Can be jitted.
        """
        coordinates = selection.coordinates
        (loss, found), grads = self._estimate(
            state.params,
            *self.batch(state, data),
            key=_keys(state)[1],
            coordinates=coordinates,
        )
        model_state, metrics = checked_aux(found, state.model_state)
        sampler_state = self.sampler.update(state.sampler_state, selection, grads)
        if selection.scales is not None:
            scaled = lambda g, scale: (g * scale).astype(g.dtype)
            grads = jax.tree.map(scaled, grads, selection.scales)
        mask = coordinate_mask(state.params, coordinates)
        before = state.opt_state, state.params
        updates, opt_state = update(self.optimizer, grads, *before, mask, loss)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(state.step + 1, params, model_state, opt_state, sampler_state, state.key)
        own = {
            "loss": loss,
            "finite": _all_finite((loss, params, model_state)),
            "num_coordinates": _num_coordinates(state.params, coordinates),
        }
        return moved, {**own, **metrics}

    def _check_sampler(self, params: Params) -> None:
        sizes, made_for = leaf_sizes(params), self.sampler.sizes
        if made_for is None or made_for == sizes:
            return
        path = next(p for p in (*made_for, *sizes) if made_for.get(p) != sizes.get(p))
        there, here = (
            f"{of[path]:,} numbers" if path in of else "none" for of in (made_for, sizes)
        )
        raise ValueError(
            f"{self.sampler.name} was made for other parameters: of the leaf {path!r} it has "
            f"{there}, the parameters have {here}; make it for these"
        )

    def spending(self, state: TrainState) -> dict[str, Spending] | None:
        """What the sampler spends on each leaf, or None where prices are not known."""
        return None if self.sampler.spending is None else self.sampler.spending(state.sampler_state)

    def place(self, tree: PyTree) -> PyTree:
        """The same values on the step's devices."""
        return replicate(tree, self.mesh)

    def compile(self, state: TrainState) -> "CompiledStep":
        """Compiles the step ahead of time, so that plan, prices and run use one program.

        Args:
          state: of the run; its shapes count.
        """
        started = time.perf_counter()
        state, data = self.place(state), self.place(self.task.data)
        # What one call gives the next one takes, wherever a compiler would have it lie.
        jit = partial(jax.jit, out_shardings=everywhere(self.mesh))
        select = jit(self.select)
        selection = select(state)
        advance = jit(self.advance).lower(state, selection, data).compile()
        queries = num_queries(self.estimator, state.params, selection.coordinates)
        boxes = Boxes.of(self.loss(state, data), state.params, self.estimator)
        boxes = boxes.beside(self.task.boxes)
        seconds = time.perf_counter() - started
        return CompiledStep(self, data, select, advance, queries, boxes, seconds)

    def loss(self, state: TrainState, data: PyTree) -> Loss:
        """The loss on a batch, of which the shapes are known."""
        return Loss(self.task.loss, jax.eval_shape(self.batch, state, data), has_aux=True)

    @cached_property
    def _estimate(self) -> Callable[..., tuple[PyTree, PyTree]]:
        return value_and_grad(self.task.loss, self.estimator, has_aux=True)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A ``TrainStep`` compiled for a state, with its data on the devices.

    Attributes:
      step: what was compiled.
      data: of the task, placed.
      select: as ``TrainStep.select``.
      advance: as ``TrainStep.advance``.
      num_queries: of the first step.
      boxes: the black boxes in its loss.
      seconds: that compiling took.
    """

    step: TrainStep
    data: PyTree
    select: Callable[[TrainState], Selection]
    advance: Callable[[TrainState, Selection, PyTree], tuple[TrainState, Metrics]]
    num_queries: int
    boxes: Boxes
    seconds: float

    def run(self, state: TrainState, selection: Selection | None = None) -> PyTree:
        """One step from a state, at coordinates of its own choice or others."""
        return self.advance(
            state, self.select(state) if selection is None else selection, self.data
        )

    def loss(self, state: TrainState) -> Loss:
        """The loss on a batch, of which the shapes are known."""
        return self.step.loss(state, self.data)


def _keys(state: TrainState) -> tuple[Key, Key]:
    data_key, estimator_key = jax.random.split(key_of(state.key))
    return data_key, jax.random.fold_in(estimator_key, state.step)


def _all_finite(tree: PyTree) -> jax.Array:
    finite = jnp.asarray(True)
    for leaf in jax.tree.leaves(tree):
        finite &= jnp.all(jnp.isfinite(leaf))
    return finite


def _num_coordinates(params: Params, coordinates: PyTree) -> jax.Array:
    count = jnp.int32(0)
    for leaf, indices in zip(jax.tree.leaves(params), jax.tree.leaves(coordinates), strict=True):
        count += num_valid(leaf, indices)
    return count
