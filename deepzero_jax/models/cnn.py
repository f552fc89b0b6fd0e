"""The ladder of small CNNs on which the paper compares RGE with CGE."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from deepzero_jax.models.layers import (
    Layer,
    LayeredModel,
    batch_norm,
    classifier,
    conv3x3,
    max_pool,
)


class CNN(LayeredModel):
    """Blocks of 3×3 convolution with bias, batch norm, ReLU and 2×2 max-pooling.

    After the blocks global average pooling and a dense layer. At width 18, three input
    channels and 10 classes, depth 1 to 5 has 730, 3,700, 6,670, 9,640 and 12,610
    parameters (DeepZero, section 5).

    Attributes:
      depth: number of blocks; each halves the image.
      num_classes: size of the output.
      width: channels of every block.
    """

    depth: int = 1
    num_classes: int = 10
    width: int = 18

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"a CNN has depth of at least 1, got {self.depth}")
        super().__post_init__()

    def layers(self) -> Sequence[Layer]:
        """Blocks and classifier, cut at each convolution and batch norm."""
        blocks = [_block(f"block{index + 1}", self.width) for index in range(self.depth)]
        return [*(layer for block in blocks for layer in block), classifier(self.num_classes)]


def _block(name: str, features: int) -> list[Layer]:
    conv, norm = f"{name}_conv", f"{name}_norm"

    def convolve(hidden: jax.Array, channels: int) -> jax.Array:
        return conv3x3(channels, 1, conv, use_bias=True)(hidden)

    def run_norm(hidden: jax.Array, train: bool) -> jax.Array:
        hidden = nn.relu(batch_norm(train, norm)(hidden))
        return max_pool(hidden)

    return [
        Layer(conv, lambda h, train: convolve(h, features), lambda h: convolve(h, 1)),
        Layer(norm, run_norm),
    ]
