"""Small problems that several tests share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz
from deepzero_jax.models import MODELS, cnn, cuts, split_model_loss
from deepzero_jax.training import cross_entropy


def flatten(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def relative_error(got, expected):
    got, expected = flatten(got), flatten(expected)
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def network_loss(name, width=4, batch=4, size=16, dtype=None, seed=0):
    """``(loss, params, args)`` of a network of the package on random images."""
    dtype = dtype or jnp.zeros(()).dtype
    model = MODELS[name](width=width)
    keys = jax.random.split(jax.random.key(seed), 3)
    images = jax.random.normal(keys[0], (batch, size, size, 3), dtype)
    labels = jnp.arange(batch) % 10
    variables = dict(model.init(keys[1], images[:1]))
    params = jax.tree.map(
        lambda leaf: leaf.astype(dtype) + 0.1 * jax.random.normal(keys[2], leaf.shape, dtype),
        variables.pop("params"),
    )
    state = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    return split_model_loss(model, cross_entropy), params, (state, images, labels)


def smooth(monkeypatch):
    """Replaces the kinks of the networks (ReLU, max-pooling) by smooth functions."""
    monkeypatch.setattr(nn, "relu", nn.softplus)
    for module in (cnn, cuts):
        monkeypatch.setattr(module, "max_pool", lambda hidden: nn.avg_pool(hidden, (2, 2), (2, 2)))


def some_coordinates(params, per_leaf=2, every=1):
    """The first, spread coordinates of every ``every``-th leaf, the other leaves empty."""
    leaves, treedef = jax.tree.flatten(params)
    chosen = []
    for position, leaf in enumerate(leaves):
        count = min(per_leaf, leaf.size) if position % every == 0 else 0
        chosen.append(jnp.asarray(np.linspace(0, leaf.size - 1, count).astype(np.int32)))
    return treedef.unflatten(chosen)


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


def estimates_at(smoothings, make, fun, params, *args, coordinates=None, has_aux=False, seed=0):
    """A gradient for each smoothing of ``make(smoothing)``, all by one compiled program."""

    @jax.jit
    def grads(smoothing, params, args, coordinates):
        vg = dz.value_and_grad(fun, make(smoothing), has_aux=has_aux)
        return vg(params, *args, key=jax.random.key(seed), coordinates=coordinates)[1]

    return [grads(smoothing, params, args, coordinates) for smoothing in smoothings]
