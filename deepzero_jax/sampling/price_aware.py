"""Sampling that weighs what a coordinate costs against what it tells."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import leaf_paths, leaf_sizes, num_valid
from deepzero_jax.keys import key_of, words_of
from deepzero_jax.sampling.rates import check_numbers, price_of_a_step, sampling_rates
from deepzero_jax.sampling.selection import Sampler, Selection, Spending
from deepzero_jax.types import Key, Params, PerLeaf, PyTree

# A leaf whose estimates have been tiny keeps 3 % of the mean rate, so that it is looked at again.
_LEAST_MOMENT = 1e-3


class PriceAwareState(NamedTuple):
    """What the sampler knows; a checkpoint holds it, prices measured on a machine included.

    Attributes:
      key: uint32 [2], words of the sampler's key.
      costs: float32 [leaves], price of one coordinate.
      budget: float32, price of a step.
      second_moments: float32 [leaves], mean square of the estimates of partial derivatives.
      num_updates: int32 [leaves], steps that perturbed a leaf.
    """

    key: jax.Array
    costs: jax.Array
    budget: jax.Array
    second_moments: jax.Array
    num_updates: jax.Array


def price_aware_sampler(
    params: Params,
    costs: PerLeaf,
    budget: float,
    decay: float = 0.9,
    second_moments: PerLeaf | None = None,
) -> Sampler:
    r"""Fresh coordinates every step, at the rates that give the least variance within a budget.

    At rates $ρ = \min(1, κ \sqrt{v/c})$, see ``sampling_rates``, the estimates of a leaf are
    divided by its rate: the mean over draws is the dense gradient. v follows from the
    estimates that the sampler has seen, so it costs nothing but the queries of the steps.

    Args:
      params: pytree of arrays or of their shapes.
      costs: ``{leaf path: price of one coordinate}``, from ``coordinate_costs`` or measured.
      budget: price of a step, in the unit of ``costs``.
      decay: of the moving average of squares; the first estimates weigh equally.
      second_moments: v to start with, ``{leaf path: mean square}``; None: equal for all.

    Returns:
      A ``Sampler``. Its coordinates are int32 [leaf.size], the unused end padding:
      their number changes from step to step and recompiles nothing.

    Raises:
      ValueError: costs of another model, a budget that pays for no coordinate, or a decay
        out of range.

    **Cost** of ``sample``: no query; one random permutation of each leaf.
    """
    rule = _PriceAware(params, costs, budget, decay, second_moments)
    functions = rule.init, rule.sample, rule.update, rule.spending
    return Sampler(*functions, name="price_aware_sampler", sizes=leaf_sizes(params))


@dataclasses.dataclass(frozen=True)
class _PriceAware:
    """The functions of the sampler; arguments as of ``price_aware_sampler``."""

    params: Params
    costs: PerLeaf
    budget: float
    decay: float
    second_moments: PerLeaf | None

    def __post_init__(self) -> None:
        paths = self.paths
        for name in ("costs", "second_moments"):
            values = getattr(self, name)
            if values is not None and set(values) != set(paths):
                odd = sorted(set(values) ^ set(paths))[:3]
                raise ValueError(
                    f"{name} and params must have the same leaves; they differ at {odd}"
                )
            check_numbers(name, values or {})
        if not self.budget > 0:
            raise ValueError(f"budget must be positive, got {self.budget}")
        if self.costs and self.budget < min(self.costs.values()):
            raise ValueError(
                f"budget {self.budget:g} does not pay for a single coordinate; the cheapest costs "
                f"{min(self.costs.values()):g}"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    @property
    def paths(self) -> list[str]:
        return leaf_paths(self.params)

    @property
    def sizes(self) -> list[float]:
        return [float(np.size(leaf)) for leaf in jax.tree.leaves(self.params)]

    def init(self, key: Key) -> PriceAwareState:
        start = self.second_moments or dict.fromkeys(self.paths, 1.0)
        return PriceAwareState(
            words_of(key),
            jnp.asarray([self.costs[path] for path in self.paths], jnp.float32),
            price_of_a_step(self.budget),
            jnp.asarray([start[path] for path in self.paths], jnp.float32),
            jnp.zeros(len(self.paths), jnp.int32),
        )

    def rates(self, state: PriceAwareState) -> list[jax.Array]:
        counts, paths = jnp.asarray(self.sizes), self.paths
        # Only their ratios matter; the sum of large ones would be infinite.
        largest = jnp.max(state.second_moments, initial=0)
        relative = state.second_moments / jnp.where(largest > 0, largest, 1)
        mean = jnp.sum(relative * counts) / jnp.sum(counts)
        moments = jnp.maximum(relative, _LEAST_MOMENT * mean)
        found = sampling_rates(
            dict(zip(paths, state.costs, strict=True)),
            dict(zip(paths, moments, strict=True)),
            dict(zip(paths, counts, strict=True)),
            state.budget,
        )
        return [found[path] for path in paths]

    def sample(self, state: PriceAwareState, step: jax.Array) -> Selection:
        leaves, treedef = jax.tree.flatten(self.params)
        key = jax.random.fold_in(key_of(state.key), step)
        keys = jax.random.split(key, max(len(leaves), 1))
        drawn, scales = [], []
        for k, leaf, rate in zip(keys, leaves, self.rates(state), strict=False):
            drawn.append(_draw(k, np.size(leaf), rate))
            scales.append(jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1), 0))
        return Selection(treedef.unflatten(drawn), treedef.unflatten(scales))

    def update(
        self, state: PriceAwareState, selection: Selection, grads: PyTree
    ) -> PriceAwareState:
        leaves, treedef = jax.tree.flatten(self.params)
        indices = treedef.flatten_up_to(selection.coordinates)
        counts = jnp.stack(
            [num_valid(leaf, i) for leaf, i in zip(leaves, indices, strict=True)]
        ).astype(jnp.float32)
        squares = jnp.stack(
            [jnp.sum(jnp.square(g.astype(jnp.float32))) for g in treedef.flatten_up_to(grads)]
        )
        seen = (counts > 0) & jnp.isfinite(squares)
        weight = jnp.maximum(1 / (state.num_updates + 1), 1 - self.decay)
        change = weight * (squares / jnp.maximum(counts, 1) - state.second_moments)
        return state._replace(
            second_moments=state.second_moments + jnp.where(seen, change, 0),
            num_updates=state.num_updates + seen,
        )

    def spending(self, state: PriceAwareState) -> dict[str, Spending]:
        prices = [float(cost) for cost in state.costs]
        chosen = [float(rate) for rate in self.rates(state)]
        spent = [n * c * r for n, c, r in zip(self.sizes, prices, chosen, strict=True)]
        total = sum(spent) or 1.0
        return {
            path: Spending(price, rate, part / total)
            for path, price, rate, part in zip(self.paths, prices, chosen, spent, strict=True)
        }


def _draw(key: Key, size: int, rate: jax.Array) -> jax.Array:
    """Distinct random indices, ``size · rate`` of them on average, then padding: [size]."""
    order_key, count_key = jax.random.split(key)
    count = jnp.floor(size * rate + jax.random.uniform(count_key)).astype(jnp.int32)
    indices = jnp.arange(size, dtype=jnp.int32)
    shuffled = jax.random.permutation(order_key, indices)
    return jnp.where(indices < count, shuffled, size)
