"""One base pass of a loss, from which differences are propagated as often as wanted."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.difference.interpreter import propagate
from deepzero_jax.difference.program import evaluate, read, trace, without_dead_equations
from deepzero_jax.difference.values import Delta, dense
from deepzero_jax.estimators.contract import Loss

PyTree = Any
REUSE_OF_DIRECTIONS = ("difference", "none")


class BasePass(NamedTuple):
    """The loss at the base, and its exact differences from there.

    Attributes:
      value: scalar loss.
      aux: auxiliary output.
      delta: ``(deltas of the parameters' leaves) -> f(params + deltas) − f(params)``.
    """

    value: jax.Array
    aux: Any
    delta: Callable[[Sequence[Delta]], jax.Array]


def run_base_pass(loss: Loss, params: PyTree, delta_dtype: Any = None) -> BasePass:
    """Traces and evaluates a loss once. **Cost**: one query."""
    leaves, treedef = jax.tree.flatten(params)
    program, out_tree = trace(lambda *flat: loss.value_and_aux(treedef.unflatten(flat)), *leaves)
    values = evaluate(program, leaves)
    value, aux = out_tree.unflatten([jnp.asarray(read(values, o)) for o in program.outputs])
    to_loss = without_dead_equations(program, program.outputs[:1])

    def delta(deltas: Sequence[Delta]) -> jax.Array:
        return dense(propagate(to_loss, values, deltas, delta_dtype)[0], value)

    return BasePass(value, aux, delta)


def check_delta_dtype(delta_dtype: Any) -> None:
    """Raises ValueError unless ``delta_dtype`` is None or bfloat16."""
    if delta_dtype is not None and delta_dtype not in ("bfloat16", jnp.bfloat16):
        raise ValueError(f"delta_dtype must be None or bfloat16, got {delta_dtype!r}")
