"""The rule of a black box in the difference engine: moved and subtracted on the host.

With answers in float64 and a JAX without it, a difference of two rounded answers would be
rounding. Such a box answers with two float32 parts; a difference sends the base, what moves
it, and both parts, and the host subtracts in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox import HostCall, from_two_parts, host_call
from deepzero_jax.difference import ZERO, Delta, dense
from deepzero_jax.difference.application import Application, evaluate_and_subtract
from deepzero_jax.difference.rules import rule


@dataclass(frozen=True)
class _HostDifference:
    """What the callback of a perturbed query calls on the host.

    Attributes:
      call: the query at the base.
      moving: numbers of the inputs that move.
    """

    call: HostCall
    moving: tuple[int, ...]

    @property
    def box(self) -> object:
        """Who answers."""
        return self.call.box

    @property
    def num_samples(self) -> int:
        """That one evaluation sends."""
        return self.call.num_samples

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        num_inputs, num_moving = len(self.call.ndims), len(self.moving)
        inputs = [np.asarray(array) for array in arrays[:num_inputs]]
        deltas = arrays[num_inputs : num_inputs + num_moving]
        bases = from_two_parts(arrays[num_inputs + num_moving :])
        for number, delta in zip(self.moving, deltas, strict=True):
            inputs[number] = np.asarray(inputs[number], np.float64) + np.asarray(delta, np.float64)
        answers = self.call.in_full(*inputs)
        return [
            np.asarray(new - base, np.float32) for new, base in zip(answers, bases, strict=True)
        ]


@rule("pure_callback")
def _difference_on_the_host(at: Application, deltas: Sequence[Delta]) -> list[Delta]:
    call = host_call(at.params)
    if not isinstance(call, HostCall) or not call.splits:
        return evaluate_and_subtract(at, deltas)
    moving = tuple(
        i
        for i, (delta, base) in enumerate(zip(deltas, at.bases, strict=True))
        if delta is not ZERO and jnp.issubdtype(base.dtype, jnp.floating)
    )
    half = len(at.outputs) // 2
    found = jax.pure_callback(
        _HostDifference(call, moving),
        [jax.ShapeDtypeStruct(o.shape, jnp.float32) for o in at.outputs[:half]],
        *at.bases,
        *[dense(deltas[i], at.bases[i]) for i in moving],
        *at.outputs,
        vmap_method="expand_dims",
    )
    return [*found, *([ZERO] * half)]
