"""Sampling rates that spend a budget best."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import core

from deepzero_jax.types import Array

Numbers = Mapping[str, Array | float]


def sampling_rates(
    costs: Numbers,
    second_moments: Numbers,
    sizes: Numbers,
    budget: Array | float,
) -> dict[str, jax.Array]:
    r"""Rates of independent sampling that give the least variance within a budget.

    Coordinates of leaf i are taken at rate $ρ_i$ and their estimates divided by it. The
    variance of that gradient is $\sum_i n_i v_i (1/ρ_i - 1)$ and its price
    $\sum_i n_i c_i ρ_i$; least for $ρ_i = \min(1, κ \sqrt{v_i / c_i})$ with one κ for all
    leaves, set by the budget. A leaf that costs nothing is taken whole.

    Args:
      costs: c, ``{leaf path: price of one coordinate}``, in any unit.
      second_moments: v, ``{leaf path: mean square of the partial derivatives}``.
      sizes: n, ``{leaf path: number of coordinates}``.
      budget: price of a step, in the unit of ``costs``. From the dense price
        $\sum_i n_i c_i$ on, every rate is 1.

    Returns:
      ``{leaf path: rate in [0, 1]}``, float scalars. Exact: κ is solved for on the
      sorted saturation points. Can be jitted; all arguments may be traced.

    Raises:
      ValueError: dictionaries over different leaves; of values that are not traced, a budget not
        above 0 and others that are negative, NaN or too large for float32.

    **Cost**: no query; one sort of as many numbers as there are leaves.

    Example:
      >>> import deepzero_jax as dz
      >>> rates = dz.sampling_rates({"a": 9, "b": 1}, {"a": 1, "b": 1}, {"a": 10, "b": 10}, 40)
      >>> print(f"{rates['a']:.2f} {rates['b']:.2f}")
      0.33 1.00
    """
    paths = list(costs)
    for name, other in (("costs", costs), ("second_moments", second_moments), ("sizes", sizes)):
        if set(other) != set(paths):
            odd = sorted(set(other) ^ set(paths))[:3]
            raise ValueError(f"{name} and costs must name the same leaves; they differ at {odd}")
        check_numbers(name, other)
    if not isinstance(budget, core.Tracer) and not float(budget) > 0:
        raise ValueError(f"budget must be positive, got {budget}")
    if not paths:
        return {}
    cost, moment, size = (
        jnp.stack([jnp.asarray(values[path], jnp.float32) for path in paths])
        for values in (costs, second_moments, sizes)
    )
    return dict(zip(paths, _best_rates(cost, moment, size, budget), strict=True))


def check_numbers(name: str, values: Numbers) -> None:
    """Raises ValueError, naming the leaf, for a number below 0 or none of float32's."""
    largest = float(jnp.finfo(jnp.float32).max)
    for path, value in values.items():
        if not isinstance(value, core.Tracer) and not 0 <= float(value) <= largest:
            raise ValueError(f"{name}[{path!r}] must be a finite number of at least 0, got {value}")


def price_of_a_step(budget: Array | float) -> jax.Array:
    """A budget in float32; one that is too large for it is its largest number: all is taken."""
    if isinstance(budget, int | float):
        budget = min(budget, float(jnp.finfo(jnp.float32).max))
    return jnp.asarray(budget, jnp.float32)


def _best_rates(
    cost: jax.Array, moment: jax.Array, size: jax.Array, budget: Array | float
) -> jax.Array:
    # A scale common to all moments only changes κ; without it small ones would underflow.
    budget = price_of_a_step(budget)
    largest = jnp.max(moment, initial=0.0)
    moment = jnp.where(largest > 0, moment / jnp.where(largest > 0, largest, 1), 1.0)
    free = cost <= 0
    value = jnp.sqrt(moment / jnp.where(free, 1.0, cost))
    # κ at which a leaf is taken whole; never for one without variance, at once for a free one.
    whole = jnp.where(value > 0, 1 / jnp.where(value > 0, value, 1), jnp.inf)
    whole = jnp.where(free, 0.0, whole)
    order = jnp.argsort(whole)
    price, slope, whole = (size * cost)[order], (size * cost * value)[order], whole[order]
    # Candidate k: the k leaves before it are whole, it and those after it share κ.
    before = jnp.cumsum(price) - price
    growing = jnp.flip(jnp.cumsum(jnp.flip(slope)))
    kappas = (budget - before) / jnp.where(growing > 0, growing, 1)
    right = (kappas <= whole) & (growing > 0)
    kappa = jnp.where(jnp.any(right), kappas[jnp.argmax(right)], jnp.inf)
    shared = jnp.where(value > 0, jnp.minimum(1.0, kappa * value), 0.0)
    return jnp.where(free | (budget >= jnp.sum(price)), 1.0, shared)
