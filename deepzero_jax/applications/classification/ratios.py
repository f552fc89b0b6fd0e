"""Layer ratios of an experiment: found in its run folder, or computed and written there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from deepzero_jax.applications.classification.config import Config
from deepzero_jax.applications.classification.experiment import Experiment, needs_probe
from deepzero_jax.applications.classification.scoring import Scoring, ranked, tell_equal
from deepzero_jax.bars import bar
from deepzero_jax.coordinates import check_ratios, leaf_paths
from deepzero_jax.files import check_writable
from deepzero_jax.programs import identity
from deepzero_jax.pruning import (
    LayerRatios,
    in_layer_order,
    layer_ratios,
    load_ratios,
    plot_ratios,
    prune_mask,
    random_scores,
    ratios_table,
    save_mask,
)
from deepzero_jax.pruning.report import paths_as_made
from deepzero_jax.sharding import agree, by_lead, is_lead
from deepzero_jax.training import (
    Boxes,
    Json,
    RunFolderError,
    SamplesFile,
    differences,
    write_json,
)
from deepzero_jax.types import Log, PyTree


def _origin(config: Config) -> Json:
    """What layer ratios depend on, for comparison with a file of them."""
    content = identity(config)
    pruning = {
        name: value
        for name, value in content["pruning"].items()
        if name not in ("mask_interval", "mask")
    }
    data = {"name": content["data"]["name"]}
    return {"seed": config.seed, "model": content["model"], "data": data, "pruning": pruning}


def kept_ratios(experiment: Experiment, workdir: Path, boxes: Boxes) -> LayerRatios | None:
    """The ratios file of a run folder, or None; its boxes count what was asked for it.

    Raises:
      RunFolderError: a file of another model or of other settings.
    """
    path, origin = workdir / "ratios.json", _origin(experiment.config)
    if not agree(path.exists()):
        return None
    found = load_ratios(path)
    try:
        check_ratios(experiment.params, found.ratios)
    except ValueError as error:
        raise RunFolderError(f"{path}: {error}; choose another folder") from error
    differing = differences(found.origin, origin)
    if differing:
        raise RunFolderError(
            f"{path} was made by another config: {'; '.join(differing)}. Choose another folder"
        )
    # They were asked perhaps in another process, and are part of the budget.
    boxes.load(found.boxes)
    return found


def count_what_was_sent(experiment: Experiment, workdir: Path) -> Boxes:
    """The boxes of a loss, which count what they were sent for a run folder, with any config.

    Before they are asked for more, as counts of two processes do not add up later. Of ratios that
    came from another folder only those count that are this run's.
    """
    fun = experiment.task.loss_on_a_batch(experiment.model_state, experiment.key("probing"))
    boxes = Boxes.of_call(fun, experiment.params)
    by_lead(lambda: SamplesFile(workdir / "samples.json")).load(boxes)
    path = workdir / "ratios.json"
    if path.exists() and needs_probe(experiment):
        found = load_ratios(path)
        if found.boxes and not differences(found.origin, _origin(experiment.config)):
            boxes.load(found.boxes)
    return boxes


def find_ratios(experiment: Experiment, workdir: Path, log: Log = print) -> LayerRatios:
    """The ratios file of a run folder; computed and written, with picture, when missing.

    Args:
      experiment: of the run.
      workdir: the run folder.
      log: takes a line.

    Raises:
      ValueError: the file there belongs to another model or to other settings, scores that are not
        finite or all equal, and from ``Scoring.of``.
      RunFolderError: files that cannot be written there; nothing is asked.
      BlackBoxError: a box that gives no answer.
    """
    scoring = Scoring.of(experiment)
    kept = kept_ratios(experiment, workdir, scoring.boxes)
    if kept is not None:
        if is_lead() and not (workdir / "ratios.png").exists():
            _draw(experiment, kept, workdir)  # a process was killed before
        return kept
    pruning = experiment.config.pruning
    asked = f", {scoring.num_samples:,} samples of the black box" if scoring.num_samples else ""
    log(f"scoring {pruning.scores}, sparsity {pruning.sparsity:g}{asked} …")

    def find() -> LayerRatios:
        with _writing_to(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            for name in ("mask.npz", "ratios.json", "ratios.png"):
                check_writable(workdir / name)
        shown = bar(f"scoring {pruning.scores}", log, scoring.num_queries or None, "queries")
        # What a process sent that was killed in the middle of it was asked for these ratios too.
        beside = SamplesFile(workdir / "samples.json")
        with shown as progress:
            with beside.of("pruning", scoring.boxes):
                scores = scoring.scores(progress.advance)
            found = LayerRatios(
                # Flax makes layers in the order in which a network runs them.
                in_layer_order(ranked(scores, pruning), paths_as_made(experiment.params)),
                scoring.num_queries,
                _origin(experiment.config),
                [box.counts() for box in scoring.boxes.samples],
                beside.counts.get("pruning", 0),
            )
            _write(experiment, found, scores, workdir)
        # Only now, as a log whose reader is gone ends the program.
        tell_equal(scores, pruning, log)
        return found

    found = by_lead(find)
    scoring.boxes.load(found.boxes)
    return found


class ExpectedPruning(NamedTuple):
    """What a plan knows of the pruning of a run.

    Attributes:
      ratios: ``{leaf path: pruned fraction}``.
      mask: boolean pytree, true = kept; None where there is a file of them.
      num_queries: that scoring has taken or will take.
      num_samples: of black boxes, likewise.
      num_images: that it scores on.
      is_done: whether the ratios are those of a finished scoring; otherwise they are those of
        random scores.
    """

    ratios: Mapping[str, float]
    mask: PyTree | None
    num_queries: int
    num_samples: int
    num_images: int
    is_done: bool


def expected_pruning(experiment: Experiment, workdir: Path) -> ExpectedPruning:
    """What is known of the pruning of a run before it is scored; nothing is asked or written."""
    scoring = Scoring.of(experiment)
    images = len(jax.tree.leaves(scoring.args[1:])[0])
    kept = kept_ratios(experiment, workdir, scoring.boxes)
    if kept is not None:
        spent = kept.num_queries, kept.num_samples
        return ExpectedPruning(kept.ratios, None, *spent, images, True)
    pruning = experiment.config.pruning
    scores = random_scores(scoring.score_key, experiment.params)
    mask = prune_mask(scores, pruning.sparsity)
    ratios = layer_ratios(scores, pruning.sparsity)
    samples = scoring.num_samples
    return ExpectedPruning(ratios, mask, scoring.num_queries, samples, images, False)


def _write(experiment: Experiment, found: LayerRatios, scores: PyTree, workdir: Path) -> None:
    pruning = experiment.config.pruning
    content = {"origin": found.origin, "num_queries": found.num_queries, "ratios": found.ratios}
    if found.boxes:
        content |= {"num_samples": found.num_samples, "boxes": found.boxes}
    with _writing_to(workdir):
        save_mask(workdir / "mask.npz", prune_mask(scores, pruning.sparsity, prune=pruning.prune))
        write_json(workdir / "ratios.json", content)
    _draw(experiment, found, workdir)


def _draw(experiment: Experiment, found: LayerRatios, workdir: Path) -> None:
    pruning = experiment.config.pruning
    title = f"{experiment.config.model.name}, {pruning.scores}, sparsity {pruning.sparsity:g}"
    with _writing_to(workdir):
        plot_ratios(found.ratios, title, workdir / "ratios.png")


@contextmanager
def _writing_to(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        at = f"{Path(error.filename).name}: " if error.filename else ""
        raise RunFolderError(
            f"cannot write to the run folder {workdir} ({at}{error.strerror}); choose another"
        ) from error


def describe_ratios(experiment: Experiment, found: LayerRatios) -> str:
    """The table of a ratios file."""
    leaves = jax.tree.leaves(experiment.params)
    sizes = {
        path: int(np.size(leaf))
        for path, leaf in zip(leaf_paths(experiment.params), leaves, strict=True)
    }
    return ratios_table(found.ratios, sizes)
