"""The ladder of small CNNs on which the paper compares RGE with CGE."""

import flax.linen as nn
import jax

from deepzero_jax.models.layers import batch_norm, classify, conv3x3, max_pool


class CNN(nn.Module):
    """Blocks of 3×3 convolution with bias, batch norm, ReLU and 2×2 max-pooling.

    After the blocks global average pooling and a dense layer. At width 18, three input
    channels and 10 classes, depth 1 to 5 has 730, 3,700, 6,670, 9,640 and 12,610
    parameters (DeepZero, section 5).

    Attributes:
      depth: number of blocks; each halves the image.
      num_classes: size of the output.
      width: channels of every block.

    Example:
      >>> import jax.numpy as jnp
      >>> params = CNN(depth=2).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
      >>> list(params)
      ['block1_conv', 'block1_norm', 'block2_conv', 'block2_norm', 'classifier']
    """

    depth: int = 1
    num_classes: int = 10
    width: int = 18

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"a CNN has depth of at least 1, got {self.depth}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images [b, h, w, c] → logits [b, num_classes]; batch statistics if ``train``."""
        _check_depth(self.depth, *images.shape[1:3])
        hidden = images
        for index in range(self.depth):
            name = f"block{index + 1}"
            hidden = conv3x3(self.width, 1, f"{name}_conv", use_bias=True)(hidden)
            hidden = nn.relu(batch_norm(train, f"{name}_norm")(hidden))
            hidden = max_pool(hidden)
        return classify(self.num_classes)(jax.numpy.mean(hidden, axis=(1, 2)))


def _check_depth(depth: int, height: int, width: int) -> None:
    most = min(height, width).bit_length() - 1
    if depth > most:
        raise ValueError(
            f"a CNN of depth {depth} halves its images {depth} times, and {height} × {width} "
            f"pixels can be halved {most} times at most: take a smaller depth, or larger images"
        )
