"""What the box takes images for: asked once, part by part, and kept in the run folder."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deepzero_jax.bars import bar, tell
from deepzero_jax.blackbox import BlackBox, BlackBoxError
from deepzero_jax.files import read_arrays, write_arrays
from deepzero_jax.training import RunFolderError, Stages, predicted_classes

_PART = 1000  # images, of which a kill loses the answers at most
_OPEN = -1  # in the place of a label: not asked yet


def ask_labels(box: BlackBox, model: Path, images: np.ndarray, stages: Stages) -> np.ndarray:
    """The box's labels of images; of those that a run folder keeps, nothing is asked.

    Args:
      box: to be asked, images in [0, 1] → logits.
      model: its file, by whose content (weights beside it included) the labels are known.
      images: uint8 [n, h, w, c].
      stages: of the run.

    Returns:
      int32 [n].

    Raises:
      RunFolderError: the folder keeps labels of another box, or damaged ones.
      BlackBoxError: a box that gives no answer; what it had answered is kept.

    **Cost**: a sample an image that has no label yet.
    """
    path = stages.workdir / "labels.npz"
    digest = np.frombuffer(_digest(model), np.uint8)
    labels = _kept(path, model, digest, len(images))
    todo = np.flatnonzero(labels == _OPEN)
    if todo.size == 0:
        return labels
    with stages.asking("labels"), bar("asking the box for labels", stages.log):
        for rows in np.array_split(todo, -(-todo.size // _PART)):
            logits = box((images[rows] / 255.0).astype(np.float32))
            labels[rows] = predicted_classes(logits)
            write_arrays(path, {"labels": labels, "box": digest})
            tell(len(rows), todo.size, "images")
            if missing := int(np.sum(labels[rows] == _OPEN)):
                raise BlackBoxError(
                    f"the box gave no answer to {missing:,} of {len(rows):,} images, which are to "
                    "have labels"
                )
    return labels


def _digest(model: Path) -> bytes:
    """Of an ONNX file and of the files beside it in which it keeps weights."""
    content = model.read_bytes()
    found = hashlib.sha256(content)
    for name in sorted(set(_locations(content))):
        beside = model.parent / name
        if beside.is_file():
            found.update(hashlib.sha256(beside.read_bytes()).digest())
    return found.digest()


def _locations(content: bytes) -> Iterator[str]:
    """Of external data: a protocol buffer's entry of key "location" and value, each by length."""
    for entry in re.finditer(rb"\x0a\x08location\x12([\x01-\x7f])", content):
        name = content[entry.end() : entry.end() + entry[1][0]]
        yield name.decode("utf-8", "replace")


def _kept(path: Path, model: Path, digest: np.ndarray, count: int) -> np.ndarray:
    if not path.exists():
        return np.full(count, _OPEN, np.int32)
    try:
        kept = read_arrays(path)
        labels, box = kept["labels"], kept["box"]
        if labels.shape != (count,):
            raise ValueError(f"{len(labels):,} labels for {count:,} images")
    except (ValueError, KeyError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); move it away") from error
    if not np.array_equal(box, digest):
        raise RunFolderError(
            f"{model} is not the box that {path.parent} was begun with, which has answered other "
            "things; give that one, or choose another folder"
        )
    return labels
