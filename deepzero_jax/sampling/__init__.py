"""Samplers: which coordinates a step perturbs, and at which rates."""

from collections.abc import Callable

from deepzero_jax.registry import Registry
from deepzero_jax.sampling.coherent import block_sampler, check_mask, coherent_gradient
from deepzero_jax.sampling.layer_ratios import layer_ratio_sampler
from deepzero_jax.sampling.price_aware import PriceAwareState, price_aware_sampler
from deepzero_jax.sampling.rates import sampling_rates
from deepzero_jax.sampling.selection import (
    Sampler,
    Selection,
    Spending,
    dense_sampler,
    fixed_sampler,
)

# Makers of samplers; what an argument is called says what it is given.
SAMPLERS: Registry[Callable[..., Sampler]] = Registry(
    "sampler",
    {
        "layer_ratios": layer_ratio_sampler,
        "price_aware": price_aware_sampler,
        "blocks": block_sampler,
    },
    importable=True,
)

__all__ = [
    "SAMPLERS",
    "PriceAwareState",
    "Sampler",
    "Selection",
    "Spending",
    "block_sampler",
    "check_mask",
    "coherent_gradient",
    "dense_sampler",
    "fixed_sampler",
    "layer_ratio_sampler",
    "price_aware_sampler",
    "sampling_rates",
]
