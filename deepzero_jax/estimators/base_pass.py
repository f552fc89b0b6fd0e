"""One base pass of a loss, from which differences are taken as often as wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.difference.base_values import base_values
from deepzero_jax.difference.interpreter import propagate
from deepzero_jax.difference.program import (
    Program,
    Values,
    read,
    trace,
    without_dead_equations,
)
from deepzero_jax.difference.values import Delta, dense
from deepzero_jax.estimators.host_use import HostUse
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.smoothing import Smoothing, Step, leaf_steps
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
      delta: ``(deltas of the parameters' leaves) -> f(params + deltas) − f(params)``; where
        differences are propagated, each is any ``difference.values.Delta``.
      host_use: what the loss asks of the host.
      course: what the differences are propagated through, if they are.
    """

    value: jax.Array
    aux: PyTree
    delta: Callable[[Sequence[PyTree]], jax.Array]
    host_use: HostUse = HostUse()
    course: "Course | None" = None


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

    def delta(deltas: Sequence[Delta]) -> jax.Array:
        return dense(propagate(to_loss, values, deltas, delta_dtype)[0], value)

    course = Course(to_loss, values, delta_dtype)
    return BasePass(value, aux, delta, HostUse.of(to_loss.equations), course)


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
