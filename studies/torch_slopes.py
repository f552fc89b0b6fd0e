"""Loss and slopes of a CIFAR ResNet by PyTorch, whose convolutions on a CPU outrun those of XLA.

``torch_loss`` stands in the place of the loss of a ``classification_task``: same parameters, same
statistics, same numbers. ``jax.value_and_grad``, and with it ``dz.first_order()``, gets its slopes
from PyTorch; data, masks, optimiser, evaluation and checkpoints stay those of the loop.
``by_torch`` trains a cell of a study so (the ``bench`` extra).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.classification import Config, build, prepare_run, train_prepared
from deepzero_jax.models.resnet import ResNet
from deepzero_jax.programs.records import run_folder
from deepzero_jax.training import InterruptedRunError, Json
from deepzero_jax.types import Array, Params, PyTree
from studies.curves import learning_curve
from studies.runner import Cell, Measurement, check_known, configured

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]

PRECISIONS = ("float32", "bfloat16")
SLOPES = ("xla", "torch")  # who takes the slopes of a study's cells


def slopes_by(slopes: str, study: str, cell: Cell, runs: Path) -> Cell | Measurement:
    """A cell, whose slopes are taken by one of ``SLOPES``.

    Raises:
      ValueError: an unknown one, or as of ``by_torch``.
    """
    check_known("slopes", (slopes,), SLOPES)
    return by_torch(study, cell, runs) if slopes == "torch" else cell


def by_torch(study: str, cell: Cell, runs: Path, precision: str = "float32") -> Measurement:
    """A first-order cell of a ResNet, trained with slopes by PyTorch.

    Its run folder lies in ``runs / study``; a run that was stopped goes on where it was.

    Raises:
      ValueError: the cell is of another estimator or network, or the precision is unknown.
    """
    check_known("precision", (precision,), PRECISIONS)
    config = configured(cell.config, cell.overrides)
    if config.estimator.name != "first_order" or not config.model.name.startswith("resnet"):
        raise ValueError(
            f"{cell.name}: PyTorch takes first-order slopes of a ResNet alone; leave --slopes out"
        )
    labels = {**cell.labels, "precision": precision}
    measure = partial(_train, config, precision, runs / study / cell.name)
    return Measurement(cell.name, labels, measure)


def torch_loss(
    model: ResNet, precision: str = "float32"
) -> Callable[..., tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]:
    """The loss of a task, ``(params, model_state, images, labels) -> (loss, (state, metrics))``.

    Args:
      model: the network.
      precision: of the convolutions, "float32" or "bfloat16"; all else is float32.
    """
    check_known("precision", (precision,), PRECISIONS)

    def ask(params: Params, state: PyTree, images: jax.Array, labels: jax.Array) -> PyTree:
        number = jax.ShapeDtypeStruct((), jnp.float32)
        like = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        shapes = (number, number, like(state), like(params))
        answer = lambda *arrays: _answer(model, precision, *arrays)
        return jax.pure_callback(answer, shapes, params, state, images, labels)

    @jax.custom_vjp
    def loss(
        params: Params, state: PyTree, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        value, accuracy, state, _ = ask(params, state, images, labels)
        return value, (state, {"accuracy": accuracy})

    def forward(*arguments: PyTree) -> tuple[PyTree, Params]:
        value, accuracy, state, slopes = ask(*arguments)
        return (value, (state, {"accuracy": accuracy})), slopes

    def backward(slopes: Params, cotangents: PyTree) -> tuple[PyTree, ...]:
        return jax.tree.map(lambda slope: cotangents[0] * slope, slopes), None, None, None

    loss.defvjp(forward, backward)
    return loss


def _train(config: Config, precision: str, workdir: Path) -> Json:
    """Trains a run, or goes on training it; its summary and its test accuracies by epoch."""
    experiment = build(config)
    assert isinstance(experiment.model, ResNet)
    with run_folder(config, workdir) as folder:
        # Scores and prices are those of the loss in JAX.
        prepared = prepare_run(experiment, workdir)
        loss = torch_loss(experiment.model, precision)
        step = replace(prepared.step.step, task=experiment.task._replace(loss=loss))
        prepared = prepared._replace(step=step.compile(prepared.state))
        folder.claim()
        try:
            summary = train_prepared(prepared, workdir, workdir.name)
        except InterruptedRunError as error:
            raise SystemExit(f"{workdir.name} stopped: {error}") from error
    return {**summary, "learning_curve": learning_curve(workdir / "metrics.jsonl")}


def _answer(
    model: ResNet, precision: str, params: Params, state: PyTree, images: Array, labels: Array
) -> tuple[Array, Array, PyTree, Params]:
    """Loss, accuracy, statistics after the step, and slopes like ``params``."""
    import torch  # pyright: ignore[reportMissingImports]

    tensor = lambda array: torch.from_numpy(np.array(array))
    leaves = {
        layer: {name: tensor(array).requires_grad_() for name, array in arrays.items()}
        for layer, arrays in params.items()
    }
    found: dict[str, Json] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        # Channels stand last in memory, as in the images of JAX.
        logits = _logits(model, leaves, tensor(images).permute(0, 3, 1, 2), found)
    targets = tensor(labels).long()
    value = torch.nn.functional.cross_entropy(logits.float(), targets)
    every = [(layer, name) for layer, arrays in leaves.items() for name in arrays]
    slopes = torch.autograd.grad(value, [leaves[layer][name] for layer, name in every])
    accuracy = (logits.argmax(1) == targets).float().mean()
    moved = {
        layer: {
            name: np.float32(0.9) * np.asarray(old) + np.float32(0.1) * found[layer][name]
            for name, old in statistics.items()
        }
        for layer, statistics in state["batch_stats"].items()
    }
    found_slopes: dict[str, Json] = {layer: {} for layer in leaves}
    for (layer, name), slope in zip(every, slopes, strict=True):
        found_slopes[layer][name] = slope.numpy()
    return value.detach().numpy(), accuracy.numpy(), {"batch_stats": moved}, found_slopes


def _logits(
    model: ResNet, leaves: Mapping[str, Json], hidden: "torch.Tensor", found: dict[str, Json]
) -> "torch.Tensor":
    """The network on images [b, c, h, w]; mean and variance of the batch go to ``found``."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    def conv(name: str, inputs: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = leaves[name]["kernel"].permute(3, 2, 0, 1)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(inputs, kernel, stride=stride, padding=1)

    def norm(name: str, inputs: torch.Tensor) -> torch.Tensor:
        leaf = leaves[name]
        outputs, mean, inverse = torch.native_batch_norm(
            inputs, leaf["scale"], leaf["bias"], None, None, True, 0.1, 1e-5
        )
        variance = inverse.detach().double() ** -2 - 1e-5
        found[name] = {"mean": mean.detach().numpy(), "var": variance.float().numpy()}
        return outputs

    hidden = functional.relu(norm("stem_norm", conv("stem_conv", hidden)))
    for name, features, stride in model.blocks():
        start = hidden
        hidden = functional.relu(norm(f"{name}_norm1", conv(f"{name}_conv1", start, stride)))
        hidden = norm(f"{name}_norm2", conv(f"{name}_conv2", hidden))
        added = features - start.shape[1]
        before = added // 2
        start = functional.pad(
            start[:, :, ::stride, ::stride], (0, 0) * 2 + (before, added - before)
        )
        hidden = functional.relu(hidden + start)
    classifier = leaves["classifier"]
    return hidden.mean((2, 3)).float() @ classifier["kernel"] + classifier["bias"]
