"""Residual networks for CIFAR (He et al. 2016, section 4.2) with option-A shortcuts."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepzero_jax.models.layers import Layer, LayeredModel, batch_norm, classifier, conv3x3

DEPTHS = (20, 32, 44, 56, 110)


class ResNet(LayeredModel):
    """CIFAR residual network of depth 6n + 2: a stem and three stages of n basic blocks.

    Shortcuts have no parameters (option A: every second pixel, zero channels added), so
    depth 20 has exactly 269,722 parameters at width 16 and 10 classes. Convolutions have
    no bias and Kaiming-normal weights; the classifier's bias starts at zero.

    Attributes:
      depth: 6n + 2 layers.
      num_classes: size of the output.
      width: channels of the first stage, doubled at each of the other two.
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6n + 2 (20, 32, 44, …), got {self.depth}")
        super().__post_init__()

    def layers(self) -> Sequence[Layer]:
        """Stem, blocks and classifier, cut at each convolution and batch norm."""
        layers = [_conv("stem_conv", self.width, 1), _norm("stem_norm")]
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                layers += _block(name, self.width * 2**stage, stride)
        return [*layers, classifier(self.num_classes)]


def _conv(name: str, features: int, stride: int) -> Layer:
    return Layer(
        name,
        lambda hidden, train: conv3x3(features, stride, name)(hidden),
        lambda hidden: conv3x3(1, stride, name)(hidden),
    )


def _norm(name: str) -> Layer:
    return Layer(name, lambda hidden, train: nn.relu(batch_norm(train, name)(hidden)))


def _block(name: str, features: int, stride: int) -> list[Layer]:
    """A basic block; within it the carry is (activations, what the shortcut starts from)."""
    conv1, norm1, conv2, norm2 = (f"{name}_{part}" for part in ("conv1", "norm1", "conv2", "norm2"))

    def run_conv1(hidden: jax.Array, train: bool) -> Any:
        return conv3x3(features, stride, conv1)(hidden), hidden

    def run_norm1(carry: Any, train: bool) -> Any:
        return nn.relu(batch_norm(train, norm1)(carry[0])), carry[1]

    def run_conv2(carry: Any, train: bool) -> Any:
        return conv3x3(features, 1, conv2)(carry[0]), carry[1]

    def run_norm2(carry: Any, train: bool) -> jax.Array:
        return nn.relu(batch_norm(train, norm2)(carry[0]) + _shortcut(carry[1], features, stride))

    return [
        Layer(conv1, run_conv1, lambda hidden: conv3x3(1, stride, conv1)(hidden)),
        Layer(norm1, run_norm1),
        Layer(conv2, run_conv2, lambda carry: conv3x3(1, 1, conv2)(carry[0])),
        Layer(norm2, run_norm2),
    ]


def _shortcut(hidden: jax.Array, features: int, stride: int) -> jax.Array:
    if stride == 1 and hidden.shape[-1] == features:
        return hidden
    added = features - hidden.shape[-1]
    spread = ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2))
    return jnp.pad(hidden[:, ::stride, ::stride, :], spread)
