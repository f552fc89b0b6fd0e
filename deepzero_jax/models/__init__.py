"""Networks: plain Flax Linen modules that can be run a slice of layers at a time."""

from collections.abc import Callable
from functools import partial

from deepzero_jax.models.cnn import CNN
from deepzero_jax.models.layers import LayeredModel
from deepzero_jax.models.resnet import DEPTHS, ResNet

MODELS: dict[str, Callable[..., LayeredModel]] = {
    **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in DEPTHS},
    **{f"cnn{depth}": partial(CNN, depth=depth) for depth in range(1, 6)},
}

__all__ = ["CNN", "MODELS", "LayeredModel", "ResNet"]
