import jax
import jax.numpy as jnp

import deepzero_jax as dz


def quadratic(params, target):
    """A smooth loss over a tree with a scalar, a matrix and a tuple of leaves."""
    hidden = jnp.tanh(params["w"] @ target + params["b"][0]) * params["s"]
    return jnp.sum(hidden**2) + jnp.sum(jnp.sin(params["b"][1]))


def quadratic_problem():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "w": jax.random.normal(keys[0], (3, 4)),
        "b": (jax.random.normal(keys[1], (3,)), jax.random.normal(keys[2], (2, 1))),
        "s": jnp.asarray(1.5),
    }
    return params, jax.random.normal(keys[3], (4,))


def estimated(estimator, fun, params, *args, coordinates=None, has_aux=False, seed=0):
    vg = jax.jit(dz.value_and_grad(fun, estimator, has_aux=has_aux))
    return vg(params, *args, key=jax.random.key(seed), coordinates=coordinates)
