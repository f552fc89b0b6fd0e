"""How many perturbed passes go side by side."""

import jax
import numpy as np
import pytest

from deepzero_jax.coordinates import all_coordinates
from deepzero_jax.cost import chunks_for, memory_budget
from deepzero_jax.estimators import cge, coordinate_costs
from deepzero_jax.estimators.loss import Loss
from deepzero_jax.sampling import price_aware_sampler
from tests.problems import network_loss


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_padding_is_little_of_what_an_accelerator_evaluates(sparsity):
    loss, params, args = network_loss("resnet8", width=16, batch=256, size=32)
    costs = coordinate_costs(loss, params, *args)
    prices = np.array(list(costs.values()))
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(params)])
    with chunks_for(80 * 10**9):
        found = cge().chunk_sizes(Loss(loss, args, False), params, all_coordinates(params))
    chunks = np.array(found)
    sampler = price_aware_sampler(params, costs, float(prices @ sizes) * (1 - sparsity))
    spending = sampler.spending(sampler.init(jax.random.key(0)))
    rates = np.array([spent.rate for spent in spending.values()])
    drawn = np.floor(sizes * rates + np.random.default_rng(0).uniform(size=(200, len(sizes))))
    evaluated = np.ceil(drawn / chunks) * chunks
    assert np.sum(evaluated @ prices) < 1.25 * np.sum(drawn @ prices)


def test_a_chunk_keeps_an_accelerator_busy_and_stays_in_a_small_one_s_memory():
    with chunks_for(2 * 10**9):
        small = memory_budget()
    with chunks_for(80 * 10**9):
        large = memory_budget()
    assert small <= 1e9
    assert 2**29 <= large <= 2**31
