"""A network as a list of named layers, any slice of which can be run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Layer(NamedTuple):
    """A layer that holds parameters, with the parameter-free operations after it.

    Attributes:
      name: of the Flax submodule that holds its parameters.
      run: ``(carry, train) -> carry``.
      run_channel: ``(carry) -> [b, h, w, 1]``, for a layer whose output channel o depends
        on no more than the last-axis slices o of its parameters: that channel, when the
        parameters are sliced so. None for other layers. The channel belongs into the
        first array of the carry that ``run`` returns.
    """

    name: str
    run: Callable[[Any, bool], Any]
    run_channel: Callable[[Any], jax.Array] | None = None


def kaiming_normal() -> Callable[..., jax.Array]:
    """Normal weights of variance 2 / fan-in (He et al. 2015), not truncated, as in PyTorch."""
    return nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def conv3x3(features: int, stride: int, name: str, use_bias: bool = False) -> nn.Conv:
    """3×3 convolution padded by one on every side, as in PyTorch, also at stride 2."""
    return nn.Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        use_bias=use_bias,
        kernel_init=kaiming_normal(),
        name=name,
    )


def batch_norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's constants: running momentum 0.9, epsilon 1e-5."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


@jax.custom_jvp
def max_pool(hidden: jax.Array) -> jax.Array:
    """2×2 max-pooling at stride 2: [b, h, w, c] → [b, h // 2, w // 2, c].

    Its derivative goes by strided slices, which XLA differentiates twenty times faster on a
    CPU than a window; among equal maxima it is shared.
    """
    return nn.max_pool(hidden, (2, 2), strides=(2, 2))


@max_pool.defjvp
def _max_pool_jvp(primals: Any, tangents: Any) -> Any:
    height, width = (size // 2 * 2 for size in primals[0].shape[1:3])

    def by_slices(hidden: jax.Array) -> jax.Array:
        rows = jnp.maximum(hidden[:, 0:height:2], hidden[:, 1:height:2])
        return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])

    return jax.jvp(by_slices, primals, tangents)


def classifier(num_classes: int, name: str = "classifier") -> Layer:
    """Global average pooling and a dense layer: [b, h, w, c] → [b, num_classes]."""

    def run(hidden: jax.Array, train: bool) -> jax.Array:
        del train
        dense = nn.Dense(num_classes, kernel_init=kaiming_normal(), name=name)
        return dense(jnp.mean(hidden, axis=(1, 2)))

    return Layer(name, run)


class LayeredModel(nn.Module):
    """Base of the networks here: ``layers()`` says what they are, this runs them."""

    def layers(self) -> Sequence[Layer]:
        """The layers in order; building the list creates no parameters."""
        raise NotImplementedError

    @property
    def layer_names(self) -> Sequence[str]:
        """Names of the layers that hold parameters, in order."""
        return [layer.name for layer in self.layers()]

    @property
    def channel_layers(self) -> Sequence[str]:
        """Names of the layers that can run one output channel alone."""
        return [layer.name for layer in self.layers() if layer.run_channel is not None]

    @nn.compact
    def __call__(
        self,
        carry: Any,
        train: bool = False,
        start: int = 0,
        stop: int | None = None,
        one_channel: bool = False,
    ) -> Any:
        """Runs layers ``start`` to ``stop - 1``; the whole network by default.

        Args:
          carry: images [b, h, w, c] when ``start`` is 0, else what that layer reads.
          train: batch statistics (and an update of the running ones) instead of
            running statistics.
          start: first layer to run.
          stop: layer before which to stop, None for the end.
          one_channel: run layer ``start`` alone, with the parameters of one of its output
            channels.

        Returns:
          Logits [b, num_classes], or the carry that layer ``stop`` reads.
        """
        if one_channel:
            run_channel = self.layers()[start].run_channel
            if run_channel is None:
                raise ValueError(f"layer {start} of {type(self).__name__} has no separate channels")
            return run_channel(carry)
        for layer in self.layers()[start:stop]:
            carry = layer.run(carry, train)
        return carry
