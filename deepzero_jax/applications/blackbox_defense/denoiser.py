"""DnCNN: a convolutional denoiser that estimates the noise and subtracts it."""

import math

import flax.linen as nn
import jax


class DnCNN(nn.Module):
    """3×3 convolutions with ReLU between them; batch norm in all but the first and last.

    The last convolution starts at zero, so that an untrained denoiser changes nothing. At
    depth 17, width 64 and three channels it has 558,400 parameters.

    Attributes:
      depth: number of convolutions, at least 2.
      width: channels between them.
      use_norm: batch norm in the inner layers (epsilon 1e-4).

    Source: Zhang et al. 2017 (arXiv 1608.03981).
    """

    depth: int = 17
    width: int = 64
    use_norm: bool = True

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"a DnCNN has depth of at least 2, got {self.depth}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Denoised images, of the shape of ``images`` [b, h, w, c]."""
        hidden = images
        for layer in range(self.depth):
            last = layer == self.depth - 1
            inner = 0 < layer < self.depth - 1
            hidden = nn.Conv(
                images.shape[-1] if last else self.width,
                (3, 3),
                padding=((1, 1), (1, 1)),
                use_bias=not (last or (inner and self.use_norm)),
                kernel_init=nn.initializers.zeros if last else nn.initializers.orthogonal(2**0.5),
                name=f"conv{layer + 1}",
            )(hidden)
            if inner and self.use_norm:
                hidden = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-4,
                    name=f"norm{layer + 1}",
                )(hidden)
            if not last:
                hidden = nn.relu(hidden)
        return images - hidden


class AutoEncoder(nn.Module):
    """Convolutional auto-encoder with a bottleneck, for images of any size.

    Each level halves the image, rounded up, and doubles the channels, down to sides of two or
    less; a dense layer makes the latent code. The decoder mirrors it and ends in a sigmoid.

    Attributes:
      latent: size of the code.
      width: channels of the first level.
      shape: of an image, ``(h, w, c)``.
    """

    latent: int
    width: int
    shape: tuple[int, int, int]

    def setup(self) -> None:
        """The layers of both halves."""
        (*sides, image_channels), channels, down = self.shape, self.width, []
        while max(sides) > 2:
            down.append((sides, channels))
            sides, channels = [-(-side // 2) for side in sides], 2 * channels
        inner = down[-1][1] if down else image_channels
        self.down = [nn.Conv(c, (3, 3), strides=(2, 2)) for _, c in down]
        self.code = nn.Dense(self.latent)
        self.start = nn.Dense(math.prod(sides) * inner)
        self.start_shape = (*sides, inner)
        outward = [c for _, c in reversed(down[:-1])] + [image_channels] * bool(down)
        self.up = [nn.ConvTranspose(c, (3, 3), strides=(2, 2)) for c in outward]
        self.sizes = [sides for sides, _ in reversed(down)]

    def encode(self, images: jax.Array) -> jax.Array:
        """[b, h, w, c] → [b, latent]."""
        for conv in self.down:
            images = nn.relu(conv(images))
        return self.code(images.reshape(images.shape[0], -1))

    def decode(self, code: jax.Array) -> jax.Array:
        """[b, latent] → [b, h, w, c] in (0, 1)."""
        hidden = nn.relu(self.start(code)).reshape(-1, *self.start_shape)
        for index, (conv, (rows, columns)) in enumerate(zip(self.up, self.sizes, strict=True)):
            hidden = conv(hidden)[:, :rows, :columns]
            if index < len(self.up) - 1:
                hidden = nn.relu(hidden)
        return nn.sigmoid(hidden)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes and decodes."""
        return self.decode(self.encode(images))
