"""What is left behind by steps that nobody compiles."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.marks import few, long

X = jnp.ones((4, 3))


def boundary(fun, **options):
    def gradient(w):
        f = dz.differentiable(fun, dz.cge(smoothing=1e-3), **options)
        return jax.grad(lambda w: jnp.mean(f(jnp.tanh(X * w))))(w)

    return gradient


def loss(fun, estimator):
    vg = dz.value_and_grad(lambda w: jnp.mean(fun(X * w)), estimator)
    return lambda w: vg(w, key=jax.random.key(0))[1]


WAYS = {
    "boundary": boundary,
    "basis": lambda fun: boundary(fun, basis=np.eye(3)),
    "structure": lambda fun: boundary(fun, structure=dz.windows((3,), 0)),
    "loss": lambda fun: loss(fun, dz.cge(smoothing=1e-3)),
    "directions": lambda fun: loss(fun, dz.rge(smoothing=1e-3)),
}


@pytest.mark.parametrize("of", few(["box", "function"]))
@pytest.mark.parametrize("way", few(WAYS, 2, long))
def test_programs_of_a_step_are_kept_once(way, of):
    take = WAYS[way](dz.black_box(np.sin, (3,), dtype="float64") if of == "box" else jnp.sin)
    client = jax.devices()[0].client
    counts = []
    for _ in range(4):
        jax.block_until_ready(take(jnp.ones(3)))
        jax.effects_barrier()
        gc.collect()
        counts.append(len(client.live_executables()))
    assert counts[1] == counts[3]
