"""Residual networks for CIFAR (He et al. 2016, section 4.2) with option-A shortcuts."""

from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepzero_jax.models.layers import batch_norm, classify, conv3x3

DEPTHS = (8, 20, 32, 44, 56, 110)


class Block(NamedTuple):
    """A basic block: two 3×3 convolutions and a shortcut around them.

    Attributes:
      name: prefix of its layers' names.
      features: channels of its output.
      stride: of the first convolution and of the shortcut.
    """

    name: str
    features: int
    stride: int


class ResNet(nn.Module):
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

    def blocks(self) -> Iterator[Block]:
        """The basic blocks in order; the first of stages 2 and 3 halves the image."""
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                name = f"stage{stage + 1}_block{block + 1}"
                yield Block(name, self.width * 2**stage, 2 if stage > 0 and block == 0 else 1)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images [b, h, w, c] → logits [b, num_classes]; batch statistics if ``train``."""
        hidden = conv3x3(self.width, 1, "stem_conv")(images)
        hidden = nn.relu(batch_norm(train, "stem_norm")(hidden))
        for name, features, stride in self.blocks():
            start = hidden
            hidden = conv3x3(features, stride, f"{name}_conv1")(start)
            hidden = nn.relu(batch_norm(train, f"{name}_norm1")(hidden))
            hidden = conv3x3(features, 1, f"{name}_conv2")(hidden)
            hidden = batch_norm(train, f"{name}_norm2")(hidden)
            hidden = nn.relu(hidden + shortcut(start, features, stride))
        return classify(self.num_classes)(jnp.mean(hidden, axis=(1, 2)))


def shortcut(hidden: jax.Array, features: int, stride: int) -> jax.Array:
    """Option A: [b, h, w, c] → [b, ⌈h / stride⌉, ⌈w / stride⌉, features], zero channels added."""
    if stride == 1 and hidden.shape[-1] == features:
        return hidden
    added = features - hidden.shape[-1]
    spread = ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2))
    return jnp.pad(hidden[:, ::stride, ::stride, :], spread)
