"""Certifies a classifier image by image, and goes on where it was stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepzero_jax.applications.blackbox_defense.bounds import certify_counts, check_radii
from deepzero_jax.bars import tell
from deepzero_jax.fields import Range, setting
from deepzero_jax.pictures import pyplot, save_figure
from deepzero_jax.training import Json, differences, read_lines, write_text

COUNT = Range(at_least=1, below=2**31)
# Images [n, h, w, c] in [0, 1] plus noise → labels [n], -1: no answer; the defended classifier.
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Certification:
    """Randomized smoothing: how images are certified."""

    sigma: float = setting(
        0.25, Range(above=0), "standard deviation of the noise, in units of the pixels"
    )
    num_selection: int = setting(100, COUNT, "samples that choose the class")
    num_samples: int = setting(10_000, COUNT, "fresh samples that give its probability")
    alpha: float = setting(0.001, Range(above=0, below=1), "chance that a certificate is wrong")
    radii: tuple[float, ...] = setting(
        (0.0, 0.25, 0.5, 0.75), Range(at_least=0), "L2, at which accuracy is wanted"
    )
    num_images: int = setting(200, COUNT, "of the test set, from its start")
    batch_size: int = setting(10_000, COUNT, "samples that are predicted at once")

    def check(self) -> None:
        """Raises ValueError for a radius that so many samples cannot certify."""
        check_radii(self.radii, self.num_samples, self.sigma, self.alpha)


def count_answers(
    predict: Predict,
    image: np.ndarray,
    rng: np.random.Generator,
    num_samples: int,
    chosen: Certification,
    num_classes: int,
) -> np.ndarray:
    """How often each class is the answer to an image under noise: int [num_classes].

    A sample without an answer counts for none.
    """
    counts = np.zeros(num_classes, int)
    for start in range(0, num_samples, chosen.batch_size):
        size = min(chosen.batch_size, num_samples - start)
        noise = rng.standard_normal((size, *image.shape), np.float32)
        labels = predict(image[None] + chosen.sigma * noise)
        counts += np.bincount(labels[labels >= 0], minlength=num_classes)
    return counts


def certify_images(
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    chosen: Certification,
    path: Path,
    num_classes: int,
    seed: int = 0,
) -> list[Json]:
    """Certifies images one after the other; a line of JSON each.

    The noise of an image follows from ``seed`` and its index alone, so what a stopped call
    left in the file is kept and only the rest is done; a bar around the call is told of each.

    Args:
      predict: the classifier, defended or not.
      images: float32 [m, h, w, c] in [0, 1].
      labels: int [m].
      chosen: how.
      path: of the file of lines, one of each classifier.
      num_classes: k.
      seed: of the noise.

    Returns:
      A record for each image: ``index``, ``label``, ``predicted`` (null: it abstained),
      ``radius``, ``count``, and how it was made: ``num_samples``, ``num_selection``, ``sigma``,
      ``alpha``, ``seed``.

    Raises:
      ValueError: radii that so many samples cannot certify, or a file of other images or of
        certificates that were made otherwise.

    **Cost**: ``num_selection + num_samples`` samples an image.
    """
    chosen.check()
    made = {"num_samples": chosen.num_samples, "num_selection": chosen.num_selection}
    made |= {"sigma": chosen.sigma, "alpha": chosen.alpha, "seed": seed}
    records = _kept_records(path, labels[: len(images)], made)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(record) + "\n" for record in records.values()))
    todo = [index for index in range(len(images)) if index not in records]
    with path.open("a") as file:
        for index in todo:
            rng = np.random.default_rng([seed, index])
            selected, estimated = (
                count_answers(predict, images[index], rng, count, chosen, num_classes)
                for count in (chosen.num_selection, chosen.num_samples)
            )
            certificate = certify_counts(
                selected, estimated, chosen.sigma, chosen.alpha, chosen.num_samples
            )
            records[index] = {
                "index": index,
                "label": int(labels[index]),
                "predicted": certificate.label,
                "radius": certificate.radius,
                "count": certificate.num_agreeing,
                **made,
            }
            file.write(json.dumps(records[index]) + "\n")
            file.flush()
            tell(1, len(todo), "images")
    return [records[index] for index in range(len(images))]


def _kept_records(path: Path, labels: np.ndarray, made: Json) -> dict[int, Json]:
    """The records of a file that are whole, by the index of their image; all made so."""
    whole = {line["index"]: line for line in read_lines(path, "index")[0] if _is_whole(line)}
    records = {index: whole[index] for index in range(len(labels)) if index in whole}
    for index, record in records.items():
        if record["label"] != int(labels[index]):
            raise ValueError(f"{path} holds certificates of other images; move it away")
        if differing := differences({name: record.get(name) for name in made}, made):
            raise ValueError(
                f"{path} holds certificates that were made otherwise: {'; '.join(differing)}; "
                "move it away"
            )
    return records


def _is_whole(record: Json) -> bool:
    numbers = isinstance(record.get("radius"), int | float) and isinstance(record.get("label"), int)
    return numbers and isinstance(record.get("predicted", False), int | None)


def certified_accuracy(records: Sequence[Json], radius: float) -> float:
    """Fraction of images whose class is right and certain within a radius."""
    right = [r["predicted"] == r["label"] and r["radius"] >= radius for r in records]
    return sum(right) / max(len(right), 1)


def num_abstentions(records: Sequence[Json]) -> int:
    """Images at which the smoothed classifier gave no answer."""
    return sum(record["predicted"] is None for record in records)


def plot_certified(
    records: Mapping[str, Sequence[Json]], chosen: Certification, picture: Path
) -> None:
    """Certified accuracy against radius, a curve for each method."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    grid = np.linspace(0, 1.07 * (max(chosen.radii) or chosen.sigma), 200)
    for method, found in records.items():
        curve = [100 * certified_accuracy(found, radius) for radius in grid]
        axis.step(grid, curve, where="post", label=method.replace("_", "-"))
    for radius in chosen.radii:
        axis.axvline(radius, color="lightgray", linewidth=0.7, zorder=0)
    axis.set(
        xlabel=f"L2 radius (sigma {chosen.sigma:g})",
        ylabel="certified accuracy, %",
        ylim=(0, 102),
        xlim=(0, grid[-1]),
    )
    axis.legend()
    save_figure(figure, picture)
