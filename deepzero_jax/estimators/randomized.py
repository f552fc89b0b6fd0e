"""Randomised gradient estimation: finite differences along random directions."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from deepzero_jax.coordinates import coordinate_mask
from deepzero_jax.counts import check_count
from deepzero_jax.difference.program import Hoisted
from deepzero_jax.estimators.base_pass import (
    FlatLoss,
    check_choice,
    check_delta_dtype,
    propagated,
    subtracted,
)
from deepzero_jax.estimators.chunks import BatchSize, check_batch_size, chunk_size, tell_passes
from deepzero_jax.estimators.contract import DirectionEstimator, Part
from deepzero_jax.estimators.directions import (
    Distribution,
    Drawn,
    direction_key,
    draw_direction,
    rounding_seed,
    typical_lengths,
)
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.probing import Probe, chosen_step
from deepzero_jax.estimators.ranks import Items, ranked_differences
from deepzero_jax.estimators.rounding import is_swallowed
from deepzero_jax.estimators.smoothing import Smoothing, Step
from deepzero_jax.estimators.summands import Directions
from deepzero_jax.estimators.terms import Term, sum_terms
from deepzero_jax.types import Key, Params, PyTree

DirectionReuse = Literal["difference", "none"]


def rge(
    *,
    smoothing: Smoothing | Probe = 1e-4,
    num_directions: int = 192,
    distribution: Distribution = "normal",
    central: bool = False,
    ranked: bool = False,
    reuse: DirectionReuse = "difference",
    delta_dtype: DTypeLike | None = None,
    batch_size: BatchSize = "auto",
) -> DirectionEstimator:
    r"""Randomised gradient estimator: $g = \frac1q \sum_j \frac{f(θ + μ u_j) - f(θ)}{μ} u_j$.

    Centrally (antithetic), the quotient is $(f(θ + μ u_j) - f(θ - μ u_j)) / 2μ$. Direction j
    is regenerated from ``fold_in(key, j)`` (of a threefry key) wherever it is needed, so no more
    than one chunk of directions exists at a time. Where two evaluations are subtracted, numbers
    are moved to a neighbour in their type at random, so that rounding adds no bias, but spread.

    Args:
      smoothing: μ, the length of the step along u, in units of the parameters: a number, a
        traced scalar (a schedule, when the estimator is made inside ``jit``), or
        ``{leaf path: step}`` with every leaf, which stretches u leaf by leaf; or what
        ``probe_smoothing`` found.
      num_directions: q, the number of random directions.
      distribution: of u. ``"normal"``: standard normal. ``"rademacher"``: ±1.
        ``"sphere"``: uniform on the unit sphere of the active coordinates, the estimate
        multiplied by their number d. ``"tensor_sphere"``: unit length in every leaf and
        no factor, as in DeepZero's released code.
      central: two-sided differences, error O(μ²) instead of O(μ), for twice the queries.
      ranked: the moved losses are replaced by their places among those of the estimate, −½ the
        least, ½ the largest (fitness shaping), and without ``central`` f(θ) plays no part. The
        gradient is then one of places, the same for any increasing function of the loss: outliers
        count no more than others, and an infinite loss is the worst. Its length says nothing: use
        an optimiser that divides it out, as Adam does. For returns with local optima.
      reuse: ``"difference"``: the difference is propagated beside one base pass and does
        not cancel. ``"none"``: the loss is evaluated at θ + μ u and subtracted.
      delta_dtype: of the operands of matrix products and convolutions of deltas, with
        ``reuse="difference"``: None for their own, or ``jnp.bfloat16``.
      batch_size: perturbed passes side by side, or ``"auto"``.

    Returns:
      An ``Estimator`` for ``value_and_grad``; it needs a key.

    Raises:
      ValueError: a bad setting, smoothing beyond what float32 holds; or at the call, as
        ``cge`` does.

    **Cost**: q + 1 queries (2q + 1 if ``central``), whatever the number of coordinates.
    Source: DeepZero, equation (1) (arXiv 2310.02025); ranks: evolution strategies (Salimans et
    al. 2017, arXiv 1703.03864).

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp
      >>> vg = dz.value_and_grad(jnp.sum, dz.rge(smoothing=1e-2, num_directions=4000))
      >>> _, grads = vg(jnp.zeros(2), key=jax.random.key(0))
      >>> bool(jnp.all(jnp.abs(grads - 1) < 0.1))
      True
    """
    step, probe = chosen_step(smoothing, central)
    num_directions = check_count("num_directions", num_directions)
    return _Randomized(
        step, num_directions, distribution, central, ranked, reuse, delta_dtype, batch_size, probe
    ).estimator()


@dataclass(frozen=True)
class _Randomized:
    smoothing: Smoothing
    num_directions: int
    distribution: Distribution
    central: bool
    ranked: bool
    reuse: DirectionReuse
    delta_dtype: DTypeLike | None
    batch_size: BatchSize
    probe: Probe | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        check_choice("distribution", self.distribution, Distribution)
        check_choice("reuse", self.reuse, DirectionReuse)
        check_delta_dtype(self.delta_dtype, self.reuse)
        if self.ranked and self.num_directions * self._passes < 2:
            raise ValueError(
                "ranked=True compares at least two moved losses: take more than one direction, or "
                "central=True"
            )

    def estimator(self) -> DirectionEstimator:
        """The estimator with these settings."""
        queries = 1 + self._passes * self.num_directions
        settings = {name: value for name, value in vars(self).items() if name != "probe"}
        return DirectionEstimator(
            name="rge",
            num_queries=lambda num_coordinates: queries,
            summand=self.summand,
            settings=settings,
            probe=self.probe,
        )

    @property
    def _passes(self) -> int:
        return 2 if self.central else 1

    def summand(
        self, loss: Loss, params: Params, key: Key, coordinates: PyTree | None, part: Part
    ) -> tuple[ValueAndAux, Params]:
        """The directions of a part of the sum, divided by q."""
        at = FlatLoss.at(loss, params)
        steps = at.steps(self.smoothing)
        mask = None if coordinates is None else coordinate_mask(params, coordinates)
        kept = [None] * len(steps) if mask is None else at.treedef.flatten_up_to(mask)
        pairs = zip(at.leaves, kept, strict=True)
        sizes = [leaf.size if keep is None else jnp.sum(keep) for leaf, keep in pairs]
        lengths = typical_lengths(self.distribution, sizes)
        is_propagated = self.reuse == "difference"
        base = propagated(at, self.delta_dtype) if is_propagated else subtracted(at, steps, lengths)
        tell_passes(1)

        def draw(index: jax.Array) -> Drawn:
            number = part.number(index)
            own_key = direction_key(key, number)
            direction, factor = draw_direction(own_key, params, mask, self.distribution)
            leaves, counts = jax.tree.leaves(direction), number < self.num_directions
            return Drawn(leaves, factor, rounding_seed(own_key), counts)

        directions = Directions(base, at.leaves, draw, steps, self.central)
        total = self._total(directions, part, hoist=is_propagated and not base.host_use.asks)
        base.host_use.tell(total.lost)
        divided = lambda g, leaf: (g / self.num_directions).astype(leaf.dtype)
        grads = [divided(*pair) for pair in zip(total.from_base(), at.leaves, strict=True)]
        if not is_propagated:
            whole = zip(grads, at.leaves, steps, lengths, kept, strict=True)
            grads = [_if_it_moves(*parts) for parts in whole]
        return (base.value, base.aux), at.treedef.unflatten(grads)

    def _total(self, directions: Directions, part: Part, hoist: bool) -> Term:
        """The sum over the directions of a part.

        With ``hoist``, what depends on no direction is done once.
        """
        base, passes = directions.base, self._passes
        count = -(-self.num_directions // part.of)
        # The last parts may have one direction less; a box is not asked for it.
        exactly = (self.num_directions - part.first + part.of - 1) // part.of
        own = exactly if base.host_use.asks else None
        from_base = None if self.ranked else directions.summand_from_base()
        term = from_base or directions.summand()
        if self.ranked:
            counts = part.number(jnp.arange(count)) < self.num_directions
            items = Items(counts, own, passes, self.batch_size, hoist)
            found = ranked_differences(base, directions.draw, directions.steps, items, part)
            term, own, passes = directions.summand_of(*found), None, 0
        one = Hoisted(term, jnp.int32(0)) if hoist else term
        chunk = min(chunk_size(self.batch_size, one, jnp.int32(0)), count)
        like = directions.like(with_shares=from_base is not None)
        return sum_terms(term, like, count, chunk, own, passes)


def _if_it_moves(
    slopes: jax.Array,
    leaf: jax.Array,
    step: Step,
    length: jax.Array | float,
    kept: jax.Array | None,
) -> jax.Array:
    """Slopes, NaN where a step of this length does not move a number, as that of ``cge`` is."""
    stuck = is_swallowed(leaf, jnp.asarray(step * length, leaf.dtype))
    return jnp.where(stuck if kept is None else stuck & kept, jnp.nan, slopes)
