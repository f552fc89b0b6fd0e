"""Networks: plain Flax Linen modules, and any model as pure functions."""

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
    "model_loss",
    "predict",
    "prefix_apply",
    "split_model_loss",
    "suffix_apply",
]
