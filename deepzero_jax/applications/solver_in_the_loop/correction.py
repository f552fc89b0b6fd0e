"""The network that corrects a solver's state after each of its steps."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepzero_jax.types import Params

# (params, states [n, *grid, channels]) → corrected states.
Correct = Callable[[Params, jax.Array], jax.Array]


class CorrectionNet(nn.Module):
    """Convolutions over the grid; the last one starts at zero, so the solver is unchanged at first.

    Attributes:
      num_outputs: channels that it corrects.
      width: hidden channels.
      depth: convolutions.
      kernel: their extent along every axis of the grid.
      periodic: whether the grid is; else zeros lie beyond it.
    """

    num_outputs: int = 1
    width: int = 8
    depth: int = 3
    kernel: int = 5
    periodic: bool = True

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        """Change of the states: [n, *grid, channels] to [n, *grid, num_outputs]."""
        size = (self.kernel,) * (states.ndim - 2)
        values, padding = states, "SAME"
        if self.periodic:
            # Wrapped once, as far as all layers see: XLA makes slow loops of an activation
            # that ends in a concatenation.
            reach = self.depth * (self.kernel // 2)
            widths = [(0, 0), *[(reach, reach)] * (states.ndim - 2), (0, 0)]
            values, padding = jnp.pad(states, widths, mode="wrap"), "VALID"
        for layer in range(self.depth - 1):
            convolve = nn.Conv(self.width, size, padding=padding, name=f"conv{layer + 1}")
            values = nn.silu(convolve(values))
        last = nn.Conv(
            self.num_outputs,
            size,
            padding=padding,
            kernel_init=nn.initializers.zeros,
            name="output",
        )
        return last(values)


def additive_correction(
    network: CorrectionNet,
    shift: jax.Array,
    scale: jax.Array,
    unit: jax.Array,
    mask: jax.Array | None = None,
) -> Correct:
    """Adds what the network says to the leading channels of a state.

    Args:
      network: of normalised states.
      shift: mean of each channel of the states.
      scale: their standard deviation.
      unit: what an output of 1 means, in units of the state: the solver's own error.
      mask: [*grid, outputs], by which changes are multiplied.
    """

    def correct(params: Params, states: jax.Array) -> jax.Array:
        change = jnp.asarray(network.apply({"params": params}, (states - shift) / scale))
        if mask is not None:
            change = change * mask
        missing = states.shape[-1] - change.shape[-1]
        padding = [(0, 0)] * (states.ndim - 1) + [(0, missing)]
        return states + jnp.pad(unit * change, padding)

    return correct
