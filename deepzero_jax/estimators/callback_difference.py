"""The rule of callbacks that are no black box: evaluated where their operands move to.

What they do on the host is unknown, and so is whether they have an axis of samples: all operands
of a call take one step. Rounding changes it as that of a box, and it is mended as there.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox.told import tell_once
from deepzero_jax.callbacks import call_host
from deepzero_jax.difference import ZERO, Delta, dense
from deepzero_jax.difference.application import Application, evaluate_and_subtract
from deepzero_jax.difference.program import apply
from deepzero_jax.difference.values import Moved, is_float
from deepzero_jax.estimators.rounding import in_the_mean, nearest, seed_of_steps


class _Known:
    """The factor of a difference, 0 where rounding left nothing of its step, which is told."""

    def __call__(self, share: np.ndarray) -> np.ndarray:
        share = np.asarray(share)
        stuck = np.isnan(share)
        # The first axis that vmap put in front counts coordinates, or directions.
        if stuck.any():
            tell_once(
                self,
                "stuck",
                "the steps of an estimate do not move what a callback is given, in its type "
                f"({stuck.sum():,} of {stuck.size:,} calls): it counts as not moved; give a larger "
                'smoothing, scale the inputs, or make a dz.black_box of it with dtype="float64"',
            )
        return np.where(stuck, 0, share).astype(share.dtype)


def difference_of_callback(at: Application, deltas: Sequence[Delta]) -> list[Delta]:
    """New results less those at the base, brought back from the step that was taken."""
    steps = {
        number: dense(delta, at.bases[number])
        for number, delta in enumerate(deltas)
        if delta is not ZERO and not isinstance(delta, Moved)
    }
    bases = [at.bases[number] for number in steps]
    if not steps or any(map(jnp.iscomplexobj, bases)):
        return evaluate_and_subtract(at, deltas)
    found, share = in_the_mean(nearest(bases, list(steps.values())), seed_of_steps())
    moved = dict(zip(steps, found.ahead, strict=True))
    moved |= {i: delta.value for i, delta in enumerate(deltas) if isinstance(delta, Moved)}
    results = apply(at.eqn, [moved.get(i, base) for i, base in enumerate(at.bases)])
    share = call_host(_Known(), jax.ShapeDtypeStruct(share.shape, share.dtype), share)
    return [
        (new - old) * share.astype(old.dtype) if is_float(old) else Moved(new)
        for new, old in zip(results, at.outputs, strict=True)
    ]
