"""Certifies a classifier image by image, and goes on where it was stopped."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from deepzero_jax.applications.blackbox_defense.certificate import certify_counts, check_radii
from deepzero_jax.pictures import pyplot, save_figure
from deepzero_jax.training.metrics import read_metrics

# Images [n, h, w, c] in [0, 1] plus noise → labels [n]; the defended classifier.
Predict = Callable[[np.ndarray], np.ndarray]


class Smoothing(NamedTuple):
    """How an image is certified.

    Attributes:
      sigma: standard deviation of the noise, in units of the pixels.
      num_selection: samples that choose the class.
      num_samples: fresh samples that give its probability.
      alpha: chance that a certificate is wrong.
      radii: at which accuracy is wanted.
      batch_size: samples that are predicted at once.
    """

    sigma: float = 0.25
    num_selection: int = 100
    num_samples: int = 10_000
    alpha: float = 0.001
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    batch_size: int = 10_000


def count_answers(
    predict: Predict,
    image: np.ndarray,
    rng: np.random.Generator,
    num_samples: int,
    smoothing: Smoothing,
    num_classes: int,
) -> np.ndarray:
    """How often each class is the answer to an image under noise: int [num_classes]."""
    counts = np.zeros(num_classes, int)
    for start in range(0, num_samples, smoothing.batch_size):
        size = min(smoothing.batch_size, num_samples - start)
        noise = rng.standard_normal((size, *image.shape), np.float32)
        labels = predict(image[None] + smoothing.sigma * noise)
        counts += np.bincount(labels, minlength=num_classes)
    return counts


def certify_images(
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    smoothing: Smoothing,
    path: Path,
    num_classes: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Certifies images one after the other; a line of JSON each.

    The noise of an image follows from ``seed`` and its index alone, so what a stopped call
    left in the file is kept and only the rest is done.

    Args:
      predict: the classifier, defended or not.
      images: float32 [m, h, w, c] in [0, 1].
      labels: int [m].
      smoothing: how.
      path: of the file of lines.
      num_classes: k.
      seed: of the noise.

    Returns:
      A record for each image: ``index``, ``label``, ``predicted`` (null: it abstained),
      ``radius``, ``count``, ``num_samples``.

    Raises:
      ValueError: radii that so many samples cannot certify, or a file of other images.

    **Cost**: ``num_selection + num_samples`` samples an image.
    """
    check_radii(smoothing.radii, smoothing.num_samples, smoothing.sigma, smoothing.alpha)
    records = read_metrics(path)[: len(images)]
    for record in records:
        if record["label"] != int(labels[record["index"]]):
            raise ValueError(f"{path} holds certificates of other images; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    todo = range(len(records), len(images))
    with path.open("a") as file:
        for index in tqdm(todo, desc=path.stem, disable=not sys.stderr.isatty(), unit="image"):
            rng = np.random.default_rng([seed, index])
            chosen, estimated = (
                count_answers(predict, images[index], rng, count, smoothing, num_classes)
                for count in (smoothing.num_selection, smoothing.num_samples)
            )
            certificate = certify_counts(chosen, estimated, smoothing.sigma, smoothing.alpha)
            record = {
                "index": index,
                "label": int(labels[index]),
                "predicted": certificate.label,
                "radius": certificate.radius,
                "count": certificate.num_agreeing,
                "num_samples": certificate.num_samples,
            }
            file.write(json.dumps(record) + "\n")
            file.flush()
            records.append(record)
    return records


def certified_accuracy(records: Sequence[dict[str, Any]], radius: float) -> float:
    """Fraction of images whose class is right and certain within a radius."""
    right = [r["predicted"] == r["label"] and r["radius"] >= radius for r in records]
    return sum(right) / max(len(right), 1)


def num_abstentions(records: Sequence[dict[str, Any]]) -> int:
    """Images at which the smoothed classifier gave no answer."""
    return sum(record["predicted"] is None for record in records)


def plot_certified(
    records: Mapping[str, Sequence[dict[str, Any]]], smoothing: Smoothing, picture: Path
) -> None:
    """Certified accuracy against radius, a curve for each method."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    grid = np.linspace(0, max(smoothing.radii) * 1.07, 200)
    for method, found in records.items():
        curve = [100 * certified_accuracy(found, radius) for radius in grid]
        axis.step(grid, curve, where="post", label=method.replace("_", "-"))
    for radius in smoothing.radii:
        axis.axvline(radius, color="lightgray", linewidth=0.7, zorder=0)
    axis.set(
        xlabel=f"L2 radius (sigma {smoothing.sigma:g})",
        ylabel="certified accuracy, %",
        ylim=(0, 102),
        xlim=(0, grid[-1]),
    )
    axis.legend()
    save_figure(figure, picture)
