"""Samplers and steps take keys of every generator, whichever is the default."""

import jax
import jax.numpy as jnp
import pytest

import deepzero_jax as dz
from deepzero_jax.coordinates import coordinate_mask, leaf_paths
from deepzero_jax.keys import key_of, threefry, words_of
from deepzero_jax.sampling import block_sampler, layer_ratio_sampler, price_aware_sampler
from deepzero_jax.training import Task, TrainStep, make_optimizer

PARAMS = {"a": jnp.ones((5, 7)), "b": jnp.ones(3)}
HALF = dict.fromkeys(leaf_paths(PARAMS), 0.5)
SAMPLERS = {
    "layer_ratio": lambda: layer_ratio_sampler(PARAMS, HALF, interval=1),
    "price_aware": lambda: price_aware_sampler(PARAMS, dict.fromkeys(HALF, 1.0), 19.0),
    "block": lambda: block_sampler(PARAMS, 2),
}
GENERATORS = ["threefry2x32", "rbg", "unsafe_rbg"]


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_take_keys_of_every_generator(name, generator):
    sampler = SAMPLERS[name]()
    states = [sampler.init(jax.random.key(seed, impl=generator)) for seed in (0, 1)]
    drawn = [jax.jit(sampler.sample)(state, jnp.int32(3)).coordinates for state in states]
    masks = [coordinate_mask(PARAMS, coordinates) for coordinates in drawn]
    for mask in masks:
        assert 18 <= sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask)) <= 20
    assert (masks[0]["a"] != masks[1]["a"]).any()


@pytest.mark.parametrize("default", GENERATORS)
def test_a_state_means_the_same_whatever_the_default_is(default):
    """A checkpoint is read where another generator may be the default."""
    words = words_of(jax.random.key(4, impl="threefry2x32"))
    with jax.default_prng_impl(default):
        assert words_of(key_of(words)).tolist() == words.tolist()
        assert words_of(jax.random.key(4)).shape == (2,)


def test_keys_of_other_generators_stay_apart():
    words = [
        tuple(words_of(jax.random.split(jax.random.key(seed, impl="rbg"), 3)[i]).tolist())
        for seed in range(4)
        for i in range(3)
    ]
    assert len(set(words)) == len(words)
    key = jax.random.key(0)
    assert threefry(key) is key


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_step_takes_keys_of_every_generator(generator):
    task = Task(
        init=lambda key: (PARAMS, ()),
        loss=lambda params, state, x: (jnp.sum(params["a"] * x), (state, {})),
        data=(),
        batch=lambda data, key, step: (jax.random.normal(key, (7,)),),
        evaluate=lambda params, state, data: {},
        steps_per_epoch=1,
    )
    estimator, optimizer = dz.rge(smoothing=1e-3), make_optimizer("sgd", lambda step: 0.1)
    step = TrainStep(task, estimator, optimizer, SAMPLERS["price_aware"]())
    state = step.init(jax.random.key(0, impl=generator), PARAMS, ())
    moved, metrics = jax.jit(step.advance)(state, step.select(state), task.data)
    assert bool(metrics["finite"])
    assert moved.key.shape == (2,)
