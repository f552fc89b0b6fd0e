"""One base pass of a loss, from which differences are taken as often as wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from deepzero_jax.blackbox import HostCall, host_call
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.difference.base_values import base_values
from deepzero_jax.difference.interpreter import propagate
from deepzero_jax.difference.precision import wide
from deepzero_jax.difference.program import (
    Program,
    Values,
    evaluate,
    read,
    trace,
    without_dead_equations,
)
from deepzero_jax.difference.values import ZERO, Delta, dense
from deepzero_jax.estimators.host_use import HostUse
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.rounding import in_the_mean, nearest, steps_rounded_by
from deepzero_jax.estimators.smoothing import Smoothing, Step, check_resolution, leaf_steps
from deepzero_jax.types import Params, PyTree


@dataclass(frozen=True)
class FlatLoss:
    """A loss at its parameters, which are flattened here once.

    Attributes:
      loss: the loss.
      leaves: of the parameters, in flattening order.
      paths: of the leaves.
      treedef: structure of the parameters.
    """

    loss: Loss
    leaves: Sequence[jax.Array]
    paths: Sequence[str]
    treedef: PyTree

    @classmethod
    def at(cls, loss: Loss, params: Params) -> "FlatLoss":
        """A loss at parameters."""
        leaves, treedef = jax.tree.flatten(params)
        return cls(loss, leaves, leaf_paths(params), treedef)

    @property
    def params(self) -> Params:
        """The parameters as a tree."""
        return self.treedef.unflatten(self.leaves)

    def with_leaf(self, position: int, leaf: jax.Array) -> Params:
        """The parameters with another leaf at a position."""
        moved = list(self.leaves)
        moved[position] = leaf
        return self.treedef.unflatten(moved)

    def steps(self, smoothing: Smoothing) -> list[Step]:
        """The step of each leaf."""
        return leaf_steps(smoothing, self.paths, self.dtypes)

    @property
    def dtypes(self) -> list[np.dtype]:
        """Of the leaves."""
        return [leaf.dtype for leaf in self.leaves]

    def host_use(self) -> HostUse:
        """What the loss asks of the host, read off its trace."""
        traced = jax.make_jaxpr(lambda *leaves: self.loss(self.treedef.unflatten(leaves)))
        return HostUse.of(traced(*self.leaves).eqns)

    def value_and_aux(self, leaves: Sequence[jax.Array]) -> ValueAndAux:
        """Loss and aux at other leaves."""
        return self.loss.value_and_aux(self.treedef.unflatten(leaves))


class BasePass(NamedTuple):
    """The loss at the base, and its differences from there.

    Attributes:
      value: scalar loss.
      aux: auxiliary output.
      delta: ``(deltas of the parameters' leaves, seed) -> f(params + deltas) − f(params)``; where
        differences are propagated, each delta is any ``difference.values.Delta``. The seed is
        that of a random direction, see ``rounding.in_the_mean``, or None.
      host_use: what the loss asks of the host.
      course: what the differences are propagated through, if they are.
      shared: ``(deltas, seed) -> (delta, factor of the loss at the base in it)``, where two
        evaluations are subtracted; else None.
    """

    value: jax.Array
    aux: PyTree
    delta: Callable[[Sequence[PyTree], jax.Array | None], jax.Array]
    host_use: HostUse = HostUse()
    course: "Course | None" = None
    shared: (
        Callable[[Sequence[jax.Array], jax.Array | None], tuple[jax.Array, jax.Array]] | None
    ) = None


class Course(NamedTuple):
    """A loss as a program, at its base.

    Attributes:
      program: from the parameters' leaves to the loss.
      values: every base value.
      delta_dtype: of the operands of products of deltas, or None.
    """

    program: Program
    values: Values
    delta_dtype: DTypeLike | None


def propagated(at: FlatLoss, delta_dtype: DTypeLike | None = None) -> BasePass:
    """Exact differences: the loss is traced and evaluated once. **Cost**: one query."""
    program, out_tree = trace(lambda *flat: at.value_and_aux(flat), *at.leaves)
    values = base_values(program, at.leaves)
    value, aux = out_tree.unflatten([jnp.asarray(read(values, o)) for o in program.outputs])
    to_loss = without_dead_equations(program, program.outputs[:1])
    answers = _answers(to_loss)
    watched = to_loss._replace(outputs=(*to_loss.outputs, *answers))

    def delta(deltas: Sequence[Delta], seed: jax.Array | None) -> jax.Array:
        with steps_rounded_by(seed):
            found, *moved = propagate(watched, values, deltas, delta_dtype)
        pairs = [(d, values[n]) for d, n in zip(moved, answers, strict=True) if d is not ZERO]
        lost = [jnp.any(jnp.isnan(dense(d, base)) & ~jnp.isnan(base)) for d, base in pairs]
        return _unless(lost, dense(found, value))

    course = Course(to_loss, values, delta_dtype)
    return BasePass(value, aux, delta, HostUse.of(to_loss.equations), course)


def subtracted(
    at: FlatLoss, steps: Sequence[Step], lengths: Sequence[jax.Array | float]
) -> BasePass:
    """Differences of two evaluations of the whole loss. **Cost**: one query.

    Args:
      at: the loss.
      steps: of the leaves.
      lengths: of the numbers of a direction, in units of the steps.

    Raises:
      ValueError: a step below the resolution of a leaf.
    """
    check_resolution(steps, at.paths, at.dtypes, at.leaves, lengths=lengths)
    (value, aux), elsewhere, host_use = evaluated(at)

    def shared(deltas: Sequence[jax.Array], seed: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        moved, share = in_the_mean(nearest(at.leaves, deltas), seed)
        change = wide(elsewhere(at.treedef.unflatten(moved.ahead))) - wide(value)
        return change * share, jnp.asarray(share)

    return BasePass(value, aux, lambda *way: shared(*way)[0], host_use, shared=shared)


def evaluated(at: FlatLoss) -> tuple[ValueAndAux, Callable[[Params], jax.Array], HostUse]:
    """Loss and aux at the base, and the loss elsewhere, evaluated whole. **Cost**: one query.

    NaN where other samples of a box have no answer than at the base: what a loss that leaves them
    out says there is no more the same loss.
    """
    host_use = at.host_use()
    if not host_use.drops:
        return at.value_and_aux(at.leaves), at.loss, host_use
    program, out_tree = trace(lambda *flat: at.value_and_aux(flat), *at.leaves)
    to_loss = without_dead_equations(program, program.outputs[:1])
    values, answers = evaluate(program, at.leaves), _answers(to_loss)
    head = out_tree.unflatten([jnp.asarray(read(values, o)) for o in program.outputs])

    def elsewhere(params: Params) -> jax.Array:
        moved = evaluate(to_loss, jax.tree.leaves(params))
        lost = [jnp.any(jnp.isnan(moved[n]) != jnp.isnan(values[n])) for n in answers]
        return _unless(lost, jnp.asarray(read(moved, to_loss.outputs[0])))

    return head, elsewhere, host_use


def _unless(lost: Sequence[jax.Array], found: jax.Array) -> jax.Array:
    """NaN where any is lost."""
    return jnp.where(jnp.any(jnp.stack(lost)), jnp.nan, found) if lost else found


def _answers(program: Program) -> list[int]:
    """Variables with answers of boxes that may leave samples without one; not those in loops."""
    calls = [(host_call(eqn.params), eqn) for eqn in program.equations]
    return [
        number
        for call, eqn in calls
        if isinstance(call, HostCall) and call.box.options.on_failure == "nan"
        for number in eqn.outputs[: len(call.sample_shapes)]
    ]


def check_delta_dtype(delta_dtype: DTypeLike | None, reuse: str) -> None:
    """Raises ValueError unless ``delta_dtype`` is None, or bfloat16 where ``reuse`` has deltas."""
    if delta_dtype is None:
        return
    if delta_dtype not in ("bfloat16", jnp.bfloat16):
        raise ValueError(f"delta_dtype must be None or bfloat16, got {delta_dtype!r}")
    if reuse != "difference":
        raise ValueError(
            f'delta_dtype is of propagated differences: with reuse="{reuse}" there are none; '
            'choose reuse="difference" or leave delta_dtype out'
        )


def check_choice(name: str, value: object, allowed: object) -> None:
    """Raises ValueError unless ``value`` is one of those of a ``Literal``."""
    if value not in get_args(allowed):
        raise ValueError(f"{name} must be one of {sorted(get_args(allowed))}, got {value!r}")
