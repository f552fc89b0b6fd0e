"""Layer ratios of an experiment: found in its run folder, or computed and written there."""

from pathlib import Path

import jax
import numpy as np

from deepzero_jax.applications.classification.config import Config
from deepzero_jax.applications.classification.experiment import Experiment
from deepzero_jax.coordinates import check_ratios, leaf_paths
from deepzero_jax.programs import identity
from deepzero_jax.pruning import (
    SCORES,
    LayerRatios,
    in_layer_order,
    layer_ratios,
    load_ratios,
    plot_ratios,
    prune_mask,
    ratios_table,
    save_mask,
)
from deepzero_jax.registry import call_with
from deepzero_jax.sharding import agree, is_lead, wait_for_all
from deepzero_jax.training import Json, RunFolderError, differences, scoring_batch, write_json
from deepzero_jax.types import Log, Params, PyTree


def compute_scores(experiment: Experiment) -> tuple[PyTree, int]:
    """Scores of the parameters at initialisation and the queries they cost."""
    pruning, scoring = experiment.config.pruning, SCORES[experiment.config.pruning.scores]
    batch_key, score_key = jax.random.split(experiment.key("pruning"))
    batch = scoring_batch(experiment.dataset, batch_key, pruning.samples_per_class)

    def loss(params: Params, *args: PyTree) -> jax.Array:
        return experiment.task.loss(params, *args)[0]

    def scores(params: Params, *args: PyTree) -> PyTree:
        given = {"fun": loss, "params": params, "args": args, "key": score_key}
        return call_with(scoring.scores, {**vars(pruning), **given})

    found = jax.jit(scores)(experiment.params, experiment.model_state, *batch)
    return found, call_with(scoring.num_queries, vars(pruning))


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


def find_ratios(experiment: Experiment, workdir: Path, log: Log = print) -> LayerRatios:
    """The ratios file of a run folder; computed and written, with picture, when missing.

    Raises:
      ValueError: the file there belongs to another model or to other settings.
    """
    path = workdir / "ratios.json"
    origin = _origin(experiment.config)
    if agree(path.exists()):
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
        return found
    pruning = experiment.config.pruning
    log(f"scoring {pruning.scores}, sparsity {pruning.sparsity:g} …")
    scores, queries = compute_scores(experiment)
    ratios = layer_ratios(scores, pruning.sparsity, prune=pruning.prune)
    # Flax makes layers in the order in which a network runs them.
    found = LayerRatios(in_layer_order(ratios, experiment.params), queries, origin)
    if is_lead():
        _write(experiment, found, scores, workdir)
    wait_for_all("ratios")
    return found


def _write(experiment: Experiment, found: LayerRatios, scores: PyTree, workdir: Path) -> None:
    pruning = experiment.config.pruning
    title = f"{experiment.config.model.name}, {pruning.scores}, sparsity {pruning.sparsity:g}"
    content = {"origin": found.origin, "num_queries": found.num_queries, "ratios": found.ratios}
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        save_mask(workdir / "mask.npz", prune_mask(scores, pruning.sparsity, prune=pruning.prune))
        plot_ratios(found.ratios, title, workdir / "ratios.png")
        write_json(workdir / "ratios.json", content)
    except OSError as error:
        raise RunFolderError(
            f"cannot write to the run folder {workdir} ({error.strerror}); choose another"
        ) from error


def describe_ratios(experiment: Experiment, found: LayerRatios) -> str:
    """The table of a ratios file."""
    leaves = jax.tree.leaves(experiment.params)
    sizes = {
        path: int(np.size(leaf))
        for path, leaf in zip(leaf_paths(experiment.params), leaves, strict=True)
    }
    return ratios_table(found.ratios, sizes)
