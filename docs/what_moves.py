"""Draws which activations of a small network change when one number of it moves.

``python -m docs.what_moves`` writes docs/what_moves.png.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import deepzero_jax as dz

CHANNELS, SIDE = 8, 16
STAGES = ("conv 1", "norm, ReLU", "conv 2", "norm, ReLU", "conv 3", "norm, ReLU", "mean", "logits")
MOVED = {"conv1": "conv 1", "conv2": "conv 2", "conv3": "conv 3", "classifier": "the classifier"}
Params = dict[str, jax.Array]


def network(params: Params, images: jax.Array) -> list[jax.Array]:
    """The activations of all stages, channels last."""
    found, hidden = [], images
    for name in ("conv1", "conv2", "conv3"):
        kernel = params[name]
        dims = ("NHWC", "HWIO", "NHWC")
        hidden = jax.lax.conv_general_dilated(
            hidden, kernel, (1, 1), "SAME", dimension_numbers=dims
        )
        found.append(hidden)
        hidden = jax.nn.relu(jax.nn.standardize(hidden, axis=(0, 1, 2)))
        found.append(hidden)
    pooled = hidden.mean(axis=(1, 2))
    return [*found, pooled, pooled @ params["classifier"]]


def loss(params: Params, images: jax.Array) -> jax.Array:
    """Of the first class."""
    return -jnp.mean(jax.nn.log_softmax(network(params, images)[-1])[:, 0])


def changed(params: Params, images: jax.Array, name: str) -> np.ndarray:
    """[channels, stages]: whether an activation differs after a number of a leaf has moved."""
    index = (1,) * (params[name].ndim - 2) + (0, 2)
    moved = {**params, name: params[name].at[index].add(0.5)}
    table = np.zeros((CHANNELS, len(STAGES)))
    pairs = zip(network(params, images), network(moved, images), strict=True)
    for column, (base, other) in enumerate(pairs):
        differs = np.abs(np.asarray(base - other)).reshape(-1, base.shape[-1]).max(axis=0) > 0
        table[: len(differs), column] = differs
    return table


def main() -> None:
    """Draws the figure."""
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {
        "conv1": (3, 3, 3, CHANNELS),
        "conv2": (3, 3, CHANNELS, CHANNELS),
        "conv3": (3, 3, CHANNELS, CHANNELS),
        "classifier": (CHANNELS, CHANNELS),
    }
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys[1:], shapes.items(), strict=True)
    }
    images = jax.random.normal(keys[0], (4, SIDE, SIDE, 3))
    costs = dz.coordinate_costs(loss, params, images)
    fig, axes = plt.subplots(2, 2, figsize=(10, 6.6), layout="constrained", sharey=True)
    colours = ListedColormap(["#eceff4", "#3b5bdb"])
    for axis, (name, words) in zip(axes.flat, MOVED.items(), strict=True):
        axis.pcolormesh(
            changed(params, images, name), cmap=colours, edgecolors="white", linewidth=2
        )
        price = f"{costs[name] / len(images):,.0f} multiply-adds an image"
        axis.set_title(f"one weight of {words} moves:\n{price}", fontsize=12)
        axis.set_xticks(np.arange(len(STAGES)) + 0.5, STAGES, rotation=35, ha="right", fontsize=11)
        axis.set_yticks([0.5, CHANNELS - 0.5], ["1", str(CHANNELS)], fontsize=11)
        axis.set_ylabel("channel", fontsize=11)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    fig.suptitle("What changes (blue) behind the number that moves", fontsize=14)
    fig.savefig(Path(__file__).with_name("what_moves.png"), dpi=130)


if __name__ == "__main__":
    main()
