"""Coordinate-wise gradient estimation: one finite difference per coordinate."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.base_pass import FlatLoss, check_choice, check_delta_dtype
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, chunk_size
from deepzero_jax.estimators.contract import CoordinateEstimator
from deepzero_jax.estimators.leaf_loops import LeafLoop, OneLeaf, joined_loops
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.pass_difference import propagated_passes
from deepzero_jax.estimators.pass_joined import JoinedPasses
from deepzero_jax.estimators.pass_suffix import suffix_passes
from deepzero_jax.estimators.pass_whole import whole_passes
from deepzero_jax.estimators.passes import Passes, WayOfPassing
from deepzero_jax.estimators.probing import Probe, chosen_step
from deepzero_jax.estimators.smoothing import Smoothing
from deepzero_jax.types import Array, Params, PyTree
from deepzero_jax.varying import varying_axes, varying_like

Reuse = Literal["difference", "none", "split"]


def cge(
    *,
    smoothing: Smoothing | Probe = 1e-4,
    central: bool = False,
    reuse: Reuse = "difference",
    delta_dtype: DTypeLike | None = None,
    batch_size: BatchSize = "auto",
) -> CoordinateEstimator:
    r"""Coordinate-wise gradient estimator: $g_i = (f(θ + μ e_i) - f(θ)) / μ$.

    Centrally, $g_i = (f(θ + μ e_i) - f(θ - μ e_i)) / 2μ$. Where two evaluations are
    subtracted, the divisor is the step that the floating-point parameter really took, so
    that its rounding does not enter.

    Args:
      smoothing: μ, the finite-difference step, in units of the parameters: a number, a
        traced scalar (a schedule, when the estimator is made inside ``jit``), or
        ``{leaf path: step}`` with every leaf; or what ``probe_smoothing`` found.
      central: two-sided differences, error O(μ²) instead of O(μ).
      reuse: how a perturbed pass is evaluated. ``"difference"``: the difference is
        propagated from the perturbed scalar on, see ``difference``; nothing cancels, and
        nothing that does not move is computed again. ``"none"``: the whole loss,
        subtracted. ``"split"``: only the stages from the perturbed leaf on, subtracted;
        the loss must be a ``SplitFunction``. Subtracted from one side, a loss that asks no
        box is evaluated at the base once more for each leaf, so that both are rounded alike.
      delta_dtype: of the operands of matrix products and convolutions of deltas, with
        ``reuse="difference"``: None for their own, or ``jnp.bfloat16`` (accumulated in
        float32; the base pass is untouched).
      batch_size: perturbed passes side by side, or ``"auto"``: as many as fit the
        cache (CPU) or keep an accelerator busy, see ``cost.memory_budget``.

    Returns:
      An ``Estimator`` for ``value_and_grad``.

    Raises:
      ValueError: a bad setting, smoothing beyond what float32 holds; or at the call,
        ``reuse="split"`` with a loss that is not cut, smoothing that names other leaves
        or that a leaf's dtype cannot hold or, where losses are subtracted, not resolve.

    **Cost**: one query, plus one per coordinate (two if ``central``).
    Source: DeepZero, equation (2) (arXiv 2310.02025).

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> estimator = dz.cge(smoothing=1e-3, central=True)
      >>> estimator
      cge(smoothing=0.001, central=True, reuse='difference', batch_size='auto')
      >>> vg = dz.value_and_grad(lambda p: p["a"] * jnp.sum(p["b"]), estimator)
      >>> _, grads = vg({"a": jnp.array(2.0), "b": jnp.ones(3)})
      >>> print(grads["a"].round(2), grads["b"].round(2))
      3.0 [2. 2. 2.]
    """
    step, probe = chosen_step(smoothing, central)
    return _Coordinatewise(step, central, reuse, delta_dtype, batch_size, probe).estimator()


@dataclass(frozen=True)
class _Coordinatewise:
    smoothing: Smoothing
    central: bool
    reuse: Reuse
    delta_dtype: DTypeLike | None
    batch_size: BatchSize
    probe: Probe | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        check_choice("reuse", self.reuse, Reuse)
        check_delta_dtype(self.delta_dtype, self.reuse)

    def estimator(self) -> CoordinateEstimator:
        """The estimator with these settings."""
        passes = 2 if self.central else 1
        settings = {name: value for name, value in vars(self).items() if name != "probe"}
        return CoordinateEstimator(
            name="cge",
            num_queries=lambda num_coordinates: 1 + passes * num_coordinates,
            values=self.values,
            chunk_sizes=self.chunk_sizes,
            settings=settings,
            probe=self.probe,
        )

    def values(self, loss: Loss, params: Params, coordinates: PyTree) -> tuple[ValueAndAux, PyTree]:
        """Base pass, and the slope along each coordinate."""
        at = FlatLoss.at(loss, params)
        passes, loops = self._plan(at, coordinates)
        value = passes.head[0]
        of_leaf: dict[int, jax.Array] = {}
        for loop in loops:
            # A loss of 16 bits has slopes that its type does not hold.
            of_its_leaves = [at.dtypes[position] for position in loop.positions]
            dtype = jnp.result_type(wide_dtype(value.dtype), *of_its_leaves)
            of_leaf.update(zip(loop.positions, loop.slopes(dtype), strict=True))
        found = [of_leaf[position] for position in range(len(at.leaves))]
        passes.host_use.tell_lost(found, value)
        found = [passes.host_use.kept(slopes, value) for slopes in found]
        return passes.head, at.treedef.unflatten(found)

    def chunk_sizes(self, loss: Loss, params: Params, coordinates: PyTree) -> list[int]:
        """Coordinates side by side, leaf by leaf; nothing is run."""
        sizes: dict[int, int] = {}

        def trace(params: Params, arrays: list[Array]) -> jax.Array:
            at = FlatLoss.at(loss.with_arrays(arrays), params)
            for loop in self._plan(at, coordinates)[1]:
                sizes.update(dict.fromkeys(loop.positions, loop.chunk))
            return jnp.zeros(())

        jax.eval_shape(trace, params, loss.arrays())
        return [sizes[position] for position in sorted(sizes)]

    def _plan(self, at: FlatLoss, coordinates: PyTree) -> tuple[Passes, list[LeafLoop]]:
        ways: dict[Reuse, WayOfPassing] = {
            "difference": partial(propagated_passes, delta_dtype=self.delta_dtype),
            "none": whole_passes,
            "split": suffix_passes,
        }
        steps = at.steps(self.smoothing)
        passes = ways[self.reuse](at, steps, self.central)
        chosen = at.treedef.flatten_up_to(coordinates)
        exact = passes.host_use.asks and not passes.told
        early = passes.hoist and not exact
        loops: list[LeafLoop] = []
        # What is known of a junction while tracing does not say over which mesh axes it varies.
        course = passes.course if early and not passes.host_use.drops else None
        if course is not None and not varying_axes((chosen, list(course.values.values()))):
            joined = JoinedPasses(course, at.leaves, steps, chosen, passes.told)
            loops += joined_loops(joined, at.leaves, chosen, steps, self.central, self.batch_size)
        shared = {position for loop in loops for position in loop.positions}
        loops += [
            self._own_loop(position, passes, leaf, indices, exact)
            for position, (leaf, indices) in enumerate(zip(at.leaves, chosen, strict=True))
            if position not in shared
        ]
        return passes, loops

    def _own_loop(
        self, position: int, passes: Passes, leaf: jax.Array, indices: Array, exact: bool
    ) -> OneLeaf:
        """Unless ``exact``, what does not depend on the index is evaluated while it is traced."""
        early = passes.hoist and not exact
        # An array of nothing has padding alone.
        slope = passes.slopes[position] if leaf.size else lambda index: jnp.zeros(())
        example, count = varying_like(jnp.int32(0), indices), np.shape(indices)[0]
        one = Hoisted(slope, example) if early and count else slope
        chunk = 1
        if count > 1:
            chunk = min(chunk_size(self.batch_size, one, example), count)
        is_hoisted = early and chunk == 1
        # All of the one pass of a scalar could be hoisted, and so asked where it is padding.
        later = passes.hoist and not is_hoisted and (early or leaf.ndim > 0)
        run = one if is_hoisted else slope
        return OneLeaf([position], chunk, run, leaf, indices, later, exact)
