"""Samplers: which coordinates a step perturbs, and at which rates."""

from deepzero_jax.sampling.coherent import block_sampler, coherent_gradient
from deepzero_jax.sampling.layer_ratios import layer_ratio_sampler
from deepzero_jax.sampling.price_aware import PriceAwareState, price_aware_sampler
from deepzero_jax.sampling.rates import sampling_rates
from deepzero_jax.sampling.selection import (
    Sampler,
    Selection,
    Share,
    dense_sampler,
    fixed_sampler,
)

__all__ = [
    "PriceAwareState",
    "Sampler",
    "Selection",
    "Share",
    "block_sampler",
    "coherent_gradient",
    "dense_sampler",
    "fixed_sampler",
    "layer_ratio_sampler",
    "price_aware_sampler",
    "sampling_rates",
]
