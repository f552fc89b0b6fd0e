"""A residual network as people write one in Flax: nothing in it knows of this package."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deepzero_jax.types import Params, PyTree

_norm = partial(nn.BatchNorm, use_running_average=False, momentum=0.9)


class _Block(nn.Module):
    features: int
    strides: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = x
        x = nn.Conv(self.features, (3, 3), self.strides, use_bias=False)(x)
        x = nn.relu(_norm()(x))
        x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
        x = _norm(scale_init=nn.initializers.zeros)(x)
        if start.shape != x.shape:
            start = _norm()(nn.Conv(self.features, (1, 1), self.strides, use_bias=False)(start))
        return nn.relu(start + x)


class _ResNet20(nn.Module):
    """Projections as shortcuts, so 272,474 parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        x = nn.relu(_norm()(x))
        for stage, features in enumerate((16, 32, 64)):
            for block in range(3):
                x = _Block(features, (2, 2) if stage and not block else (1, 1))(x)
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))


def flax_resnet20(batch_size: int) -> tuple[Any, Params, tuple[PyTree, ...]]:
    """The training loss on CIFAR-sized images, its parameters, and its other arguments."""
    images = jnp.zeros((batch_size, 32, 32, 3))
    model = _ResNet20()
    variables = model.init(jax.random.key(1), images[:1])
    labels = jnp.arange(batch_size) % 10

    def loss(params: Params, state: PyTree, x: jax.Array, y: jax.Array) -> tuple:
        found = {"params": params, "batch_stats": state}
        logits, updates = model.apply(found, x, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), y)
        return jnp.mean(losses), updates["batch_stats"]

    return loss, variables["params"], (variables["batch_stats"], images, labels)
