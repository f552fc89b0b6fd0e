import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification.config import Config, Sampling
from deepzero_jax.coordinates import coordinate_mask, coordinates_per_leaf
from deepzero_jax.fields import check_fields
from deepzero_jax.sampling import block_sampler, coherent_gradient
from deepzero_jax.training import make_optimizer
from tests.problems import quadratic, quadratic_problem


def test_blocks_in_turn_hold_every_coordinate_once():
    params = {"a": jnp.zeros((5, 7)), "b": jnp.zeros(2), "c": jnp.zeros(())}
    sampler = block_sampler(params, 4)
    state = sampler.init(jax.random.key(3))
    sample = jax.jit(sampler.sample)
    seen = jax.tree.map(lambda leaf: np.zeros(leaf.shape, int), params)
    for step in range(6, 10):
        mask = coordinate_mask(params, sample(state, jnp.int32(step)).coordinates)
        assert 8 <= mask["a"].sum() <= 9
        assert mask["b"].sum() <= 1
        seen = jax.tree.map(jnp.add, seen, mask)
    assert sample._cache_size() == 1
    assert all(bool(jnp.all(leaf == 1)) for leaf in jax.tree.leaves(seen))
    with pytest.raises(ValueError, match="num_blocks must be an integer of at least 1"):
        block_sampler(params, 0)


@pytest.mark.parametrize("num_blocks", [3, 7, 100])
def test_blocks_are_as_large(num_blocks):
    """Many small leaves do not share the first blocks."""
    params = {str(i): jnp.zeros(size) for i, size in enumerate([12, 108, 12, 12, 1, 120, 10])}
    sampler = block_sampler(params, num_blocks)
    state = sampler.init(jax.random.key(0))
    sizes = [
        sum(
            coordinates_per_leaf(
                params, sampler.sample(state, jnp.int32(step)).coordinates
            ).values()
        )
        for step in range(num_blocks)
    ]
    assert sum(sizes) == 275
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == min(sizes)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_old_estimates_count_decayed_by_their_age(decay):
    params, target = quadratic_problem()
    blocks = 3
    sampler = block_sampler(params, blocks)
    sampler_state = sampler.init(jax.random.key(0))
    vg = jax.jit(dz.value_and_grad(quadratic, dz.cge(smoothing=1e-3)))
    transform = coherent_gradient(decay)
    state = transform.init(params)
    weights = jax.tree.map(jnp.zeros_like, params)
    for step in range(blocks):
        coordinates = sampler.sample(sampler_state, jnp.int32(step)).coordinates
        mask = coordinate_mask(params, coordinates)
        grads = vg(params, target, coordinates=coordinates)[1]
        whole, state = transform.update(grads, state, params, mask=mask)
        weights = jax.tree.map(lambda new, w: jnp.where(new, 1.0, decay * w), mask, weights)
    dense = vg(params, target)[1]
    for found, exact, weight in zip(*map(jax.tree.leaves, (whole, dense, weights)), strict=True):
        np.testing.assert_allclose(found, exact * weight, rtol=1e-5, atol=1e-7)


def test_the_optimiser_descends_along_the_whole_buffer():
    params = {"w": jnp.zeros(2)}
    rule = make_optimizer("sgd", lambda step: 1.0, momentum=0.0, coherence=0.5)
    state = rule.init(params)
    for grad, mask in (([4.0, 0.0], [True, False]), ([0.0, 3.0], [False, True])):
        updates, state = rule.update(
            {"w": jnp.array(grad)}, state, params, mask={"w": jnp.array(mask)}
        )
    np.testing.assert_allclose(updates["w"], [-2.0, -3.0])
    with pytest.raises(ValueError, match="coherence needs mask 'gradient'"):
        make_optimizer("sgd", lambda step: 1.0, mask="weights", coherence=0.5)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(name="blocks", coherence=1.5), r"lie in \[0, 1\], got 1.5"),
        (Sampling(name="price_aware", budget="10 %", coherence=0.5), "not with price_aware"),
        (Sampling(unbiased=True, coherence=0.5), "not with sampling.unbiased"),
        (Sampling(name="blocks", num_blocks=0), "sampling.num_blocks must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_named(sampling, message):
    with pytest.raises(ValueError, match=message):
        check_fields(Config(sampling=sampling))
