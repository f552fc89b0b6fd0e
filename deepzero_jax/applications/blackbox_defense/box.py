"""The black box: trained first, or trained already; its file, and its white-box twin."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.onnx_export import export_onnx
from deepzero_jax.applications.blackbox_defense.stability import Classifier
from deepzero_jax.blackbox import onnx_model
from deepzero_jax.blackbox.onnx import OnnxModel
from deepzero_jax.data import Dataset
from deepzero_jax.estimators import first_order
from deepzero_jax.models import make_model, predict
from deepzero_jax.training import (
    Stages,
    Trained,
    classification_task,
    load_trained,
    read_json,
)


class Box(NamedTuple):
    """A trained classifier.

    Attributes:
      path: its ONNX file, images [n, h, w, c] in [0, 1] → logits [n, classes].
      twin: the same as a white box; None where there is no more than a file.
      test_accuracy: None where nobody has told it.
    """

    path: Path
    twin: Classifier | None
    test_accuracy: float | None


def check_box(config: DefenseConfig) -> None:
    """Checks what a record says of a classifier that is trained already; writes nothing.

    Raises:
      ValueError: no trained classifier at ``classifier.path``, one of other data, or one without
        the slopes that ``fo_ds`` wants.
    """
    if config.classifier.path is not None:
        if _is_file(config.classifier.path):
            _check_file(config, Path(config.classifier.path))
        else:
            _network_of(config, Path(config.classifier.path))


def check_fit(config: DefenseConfig, dataset: Dataset) -> None:
    """Checks that an ONNX file takes the images of the data, and has a logit for each class.

    Raises:
      ValueError: it does not, or cannot be run.
    """
    path = config.classifier.path
    if path is None or not _is_file(path):
        return
    sizes, count = dataset.train_images.shape[1:], dataset.num_classes
    try:
        reason = _misfit(onnx_model(path), np.zeros((2, *sizes), np.float32), count)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = str(error)
    if reason is not None:
        images = ", ".join(map(str, sizes))
        raise ValueError(
            f"classifier.path {path!r} does not fit the data ({reason}): export it so that it "
            f"takes float32 images [n, {images}] in [0, 1] and gives logits [n, {count}]"
        )


def _misfit(model: OnnxModel, images: np.ndarray, num_classes: int) -> str | None:
    """Why a model cannot be the box, or None."""
    for name, dtype in model.dtypes.items():
        if not np.can_cast(images.dtype, dtype):
            return f"its input {name!r} takes {dtype}, to which images in [0, 1] would be rounded"
    shape = model(images).shape
    expected = (len(images), num_classes)
    return None if shape == expected else f"it gives {list(shape)} for {len(images)} images"


def find_box(config: DefenseConfig, stages: Stages, dataset: Dataset) -> Box:
    """The box that a record names, trained first where it names none.

    Raises:
      ValueError: as of ``check_box``.
      InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
    """
    chosen = config.classifier
    if chosen.path is None:
        model, width = chosen.model, chosen.width
        trained = _train(config, stages, dataset)
    elif _is_file(chosen.path):
        _check_file(config, Path(chosen.path))
        return Box(Path(chosen.path), None, None)
    else:
        model, width = _network_of(config, Path(chosen.path))
        trained = load_trained(chosen.path)
    return _exported(model, width, trained, stages.workdir / "classifier.onnx", dataset)


def _is_file(path: str) -> bool:
    return path.endswith(".onnx")


def _train(config: DefenseConfig, stages: Stages, dataset: Dataset) -> Trained:
    chosen = config.classifier
    model = make_model(chosen.model, dataset.num_classes, chosen.width)
    task = classification_task(model, dataset, chosen.batch_size, chosen.augment)
    num_steps = max(1, round(chosen.num_epochs * task.steps_per_epoch))
    return stages.run("classifier", task, first_order(), num_steps, chosen.learning_rate)


def _check_file(config: DefenseConfig, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"classifier.path {str(path)!r}: there is no such file")
    methods = config.training.methods
    if "fo_ds" in methods:
        others = ",".join(name for name in methods if name != "fo_ds") or "none,deepzero"
        raise ValueError(
            "fo_ds takes slopes of the classifier, which an ONNX file does not give: leave it "
            f"out, --config.training.methods={others}"
        )


def _network_of(config: DefenseConfig, folder: Path) -> tuple[str, int | None]:
    """Name and width of the network that a run has trained."""
    if not (folder / "config.json").exists() or not (folder / "summary.json").exists():
        raise ValueError(
            f"classifier.path {str(folder)!r} is neither an ONNX file (.onnx) nor the folder of a "
            "finished run"
        )
    record = read_json(folder / "config.json")
    try:
        model, data = record["model"], record["data"]
        name, width = model["name"], model["width"]
        trained_on = data["name"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"classifier.path {str(folder)!r} has trained no classifier") from error
    if trained_on != config.data.name:
        raise ValueError(
            f"classifier.path {str(folder)!r} was trained on {trained_on}, and data.name is "
            f"{config.data.name}"
        )
    return name, width


def _exported(name: str, width: int | None, trained: Trained, path: Path, dataset: Dataset) -> Box:
    model = make_model(name, dataset.num_classes, width)
    params, model_state, summary = trained
    mean, std = (np.asarray(values, np.float32) for values in (dataset.mean, dataset.std))

    def twin(images: jax.Array) -> jax.Array:
        return predict(model, params, model_state, (images - mean) / std)

    rows, columns, channels = dataset.train_images.shape[1:]
    variables = {"params": params, **model_state}
    export_onnx(model, variables, (rows, columns, channels), dataset.mean, dataset.std, path)
    images = np.asarray(dataset.train_images[:64], np.float32) / 255
    gap = float(np.max(np.abs(onnx_model(path)(images) - np.asarray(twin(jnp.asarray(images))))))
    if gap > 1e-3:
        raise ValueError(f"{path} answers otherwise than the network it was made from, by {gap:g}")
    return Box(path, twin, summary["test_accuracy"])
