"""Cut tables: a network as a list of layers, any slice of which can be run.

Only ``reuse="split"`` needs one. A table stands in ``CUTS`` by the type of its model;
one for a model of your own is added there: ``CUTS[MyModel] = my_layers``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepzero_jax.models.cnn import CNN
from deepzero_jax.models.layers import batch_norm, classify, conv3x3, max_pool
from deepzero_jax.models.resnet import Block, ResNet, shortcut
from deepzero_jax.types import PyTree


class Layer(NamedTuple):
    """A layer that holds parameters, with the parameter-free operations after it.

    Attributes:
      name: first component of the leaf paths of its parameters.
      run: ``(variables, carry, train) -> (carry, updated)``. ``variables`` are the whole
        model's, as Flax takes them; ``updated`` holds what became of this layer's part of
        the collections other than ``"params"``.
      run_channel: ``(variables, carry) -> [b, h, w, 1]``, for a layer whose output channel o
        depends on no more than the last-axis slices o of its parameters: that channel,
        when the parameters are sliced so. None for other layers. The channel belongs into
        the first array of the carry that ``run`` returns.
    """

    name: str
    run: Callable[[PyTree, PyTree, bool], tuple[PyTree, PyTree]]
    run_channel: Callable[[PyTree, PyTree], jax.Array] | None = None


def _apply(module: nn.Module, variables: PyTree, hidden: jax.Array) -> tuple[jax.Array, PyTree]:
    """Applies one submodule with its own part of the variables."""
    name = module.name
    own = {kind: values[name] for kind, values in variables.items() if name in values}
    output, updated = module.apply(own, hidden, mutable=[kind for kind in own if kind != "params"])
    return output, {kind: {name: values} for kind, values in updated.items()}


def _norm(name: str, after: Callable[[jax.Array], jax.Array]) -> Layer:
    """Batch norm, followed by a function without parameters."""

    def run(variables: PyTree, hidden: jax.Array, train: bool) -> tuple[jax.Array, PyTree]:
        output, updated = _apply(batch_norm(train, name), variables, hidden)
        return after(output), updated

    return Layer(name, run)


def _conv(name: str, features: int, stride: int, use_bias: bool = False) -> Layer:
    make = partial(conv3x3, stride=stride, name=name, use_bias=use_bias)
    return Layer(
        name,
        lambda variables, hidden, train: _apply(make(features), variables, hidden),
        lambda variables, hidden: _apply(make(1), variables, hidden)[0],
    )


def _classifier(num_classes: int) -> Layer:
    def run(variables: PyTree, hidden: jax.Array, train: bool) -> tuple[jax.Array, PyTree]:
        del train
        return _apply(classify(num_classes), variables, jnp.mean(hidden, axis=(1, 2)))

    return Layer("classifier", run)


def _cnn_layers(model: CNN) -> list[Layer]:
    layers = []
    for index in range(model.depth):
        name = f"block{index + 1}"
        layers += [
            _conv(f"{name}_conv", model.width, 1, use_bias=True),
            _norm(f"{name}_norm", lambda hidden: max_pool(nn.relu(hidden))),
        ]
    return [*layers, _classifier(model.num_classes)]


def _resnet_layers(model: ResNet) -> list[Layer]:
    layers = [_conv("stem_conv", model.width, 1), _norm("stem_norm", lambda h: nn.relu(h))]
    for block in model.blocks():
        layers += _block_layers(block)
    return [*layers, _classifier(model.num_classes)]


def _block_layers(block: Block) -> list[Layer]:
    """A basic block; within it the carry is (activations, what the shortcut starts from)."""
    name, features, stride = block
    conv1 = _conv(f"{name}_conv1", features, stride)
    norm1 = _norm(f"{name}_norm1", lambda hidden: nn.relu(hidden))
    conv2 = _conv(f"{name}_conv2", features, 1)
    norm2 = _norm(f"{name}_norm2", lambda hidden: hidden)

    def run_conv1(variables: PyTree, hidden: jax.Array, train: bool) -> tuple[PyTree, PyTree]:
        output, updated = conv1.run(variables, hidden, train)
        return (output, hidden), updated

    def beside_start(layer: Layer) -> Layer:
        def run(variables: PyTree, carry: PyTree, train: bool) -> tuple[PyTree, PyTree]:
            output, updated = layer.run(variables, carry[0], train)
            return (output, carry[1]), updated

        channel = layer.run_channel
        if channel is None:
            return Layer(layer.name, run)
        return Layer(layer.name, run, lambda variables, carry: channel(variables, carry[0]))

    def run_norm2(variables: PyTree, carry: PyTree, train: bool) -> tuple[jax.Array, PyTree]:
        output, updated = norm2.run(variables, carry[0], train)
        return nn.relu(output + shortcut(carry[1], features, stride)), updated

    return [
        Layer(conv1.name, run_conv1, conv1.run_channel),
        beside_start(norm1),
        beside_start(conv2),
        Layer(norm2.name, run_norm2),
    ]


# The type of a model to ``(model) -> its layers in order``.
CUTS: dict[type, Callable[..., Sequence[Layer]]] = {CNN: _cnn_layers, ResNet: _resnet_layers}


def cut_table(model: object) -> Sequence[Layer]:
    """The layers of a model, in order, found by its type.

    Raises:
      ValueError: a model of a type that ``CUTS`` does not have.

    Example:
      >>> [layer.name for layer in cut_table(CNN(depth=1))]
      ['block1_conv', 'block1_norm', 'classifier']
    """
    if type(model) not in CUTS:
        raise ValueError(
            f"{type(model).__name__} has no cut table (known: "
            f'{", ".join(kind.__name__ for kind in CUTS)}), so reuse="split" cannot cut it; '
            'choose reuse="difference", which needs none, or add one to models.cuts.CUTS'
        )
    return CUTS[type(model)](model)


def layer_names(model: object) -> list[str]:
    """Names of the layers of a model with a cut table, in order."""
    return [layer.name for layer in cut_table(model)]


def prefix_apply(
    model: object, index: int, variables: PyTree, x: jax.Array, train: bool = False
) -> PyTree:
    """Applies the layers of a model before layer ``index``; new batch statistics are dropped."""
    carry: PyTree = x
    for layer in cut_table(model)[:index]:
        carry = layer.run(variables, carry, train)[0]
    return carry


def suffix_apply(
    model: object, index: int, variables: PyTree, carry: PyTree, train: bool = False
) -> PyTree:
    """Applies layer ``index`` of a model and those after it to ``prefix_apply``'s result.

    ``suffix_apply(model, i, v, prefix_apply(model, i, v, x))`` equals
    ``model.apply(v, x)`` bit for bit, for every i.

    Example:
      >>> model, x = CNN(depth=1, width=2), jnp.ones((1, 4, 4, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> hidden = prefix_apply(model, 2, variables, x)
      >>> hidden.shape, suffix_apply(model, 2, variables, hidden).shape
      ((1, 2, 2, 2), (1, 10))
    """
    for layer in cut_table(model)[index:]:
        carry = layer.run(variables, carry, train)[0]
    return carry
