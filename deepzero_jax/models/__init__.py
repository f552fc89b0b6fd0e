"""Networks: plain Flax Linen modules, and any model as pure functions."""

import inspect
from collections.abc import Callable
from functools import partial

from deepzero_jax.models.cnn import CNN
from deepzero_jax.models.cuts import (
    CUTS,
    Layer,
    cut_table,
    layer_names,
    prefix_apply,
    suffix_apply,
)
from deepzero_jax.models.functional import (
    Model,
    PureModel,
    init_model,
    model_loss,
    predict,
)
from deepzero_jax.models.layers import max_pool
from deepzero_jax.models.resnet import DEPTHS, ResNet
from deepzero_jax.models.split_loss import split_model_loss
from deepzero_jax.registry import Registry

# Makers: ``(num_classes=…, [width=…]) -> model``.
MODELS: Registry[Callable[..., Model]] = Registry(
    "model",
    {
        **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in DEPTHS},
        **{f"cnn{depth}": partial(CNN, depth=depth) for depth in range(1, 6)},
    },
    importable=True,
)


def make_model(name: str, num_classes: int, width: int | None = None) -> Model:
    """Builds a network of ``MODELS``, or your own ``"module:function"``.

    Args:
      name: of the network.
      num_classes: size of its output.
      width: channels of its first stage; None: its own.

    Raises:
      ValueError: an unknown name, a width for a maker that takes none, or a maker that
        returns no model.
    """
    maker = MODELS[name]
    if width is not None and "width" not in inspect.signature(maker).parameters:
        raise ValueError(f"model {name!r} takes no width; leave it out")
    model = maker(num_classes=num_classes, **({} if width is None else {"width": width}))
    if not isinstance(model, Model):
        raise ValueError(
            f"model {name!r} must be a flax.linen.Module, or have init and apply, "
            f"got {type(model).__name__}"
        )
    return model


__all__ = [
    "CNN",
    "CUTS",
    "MODELS",
    "Layer",
    "Model",
    "PureModel",
    "ResNet",
    "cut_table",
    "init_model",
    "layer_names",
    "make_model",
    "max_pool",
    "model_loss",
    "predict",
    "prefix_apply",
    "split_model_loss",
    "suffix_apply",
]
