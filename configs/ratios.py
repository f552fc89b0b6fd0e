"""Layer ratios of an experiment: found in its run folder, or computed and written there."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.experiment import Experiment, run_key
from configs.loading import identity
from configs.schema import Config
from deepzero_jax.coordinates import check_ratios, leaf_paths
from deepzero_jax.models import layer_names
from deepzero_jax.pruning import (
    grasp_scores,
    layer_ratios,
    prune_mask,
    random_scores,
    zo_grasp_scores,
)
from deepzero_jax.pruning.report import (
    in_layer_order,
    load_ratios,
    plot_ratios,
    ratios_table,
    save_mask,
)
from deepzero_jax.sharding import agree, is_lead, wait_for_all
from deepzero_jax.training.folder import differences, write_json
from deepzero_jax.training.task import scoring_batch

PyTree = Any


def compute_scores(experiment: Experiment) -> tuple[PyTree, int]:
    """Scores of the parameters at initialisation and the queries they cost."""
    pruning = experiment.config.pruning
    batch_key, score_key = jax.random.split(run_key(experiment.config, "pruning"))
    images, labels = scoring_batch(experiment.dataset, batch_key, pruning.samples_per_class)

    def loss(params: PyTree, *args: Any) -> jax.Array:
        return experiment.task.loss(params, *args)[0]

    args = (experiment.model_state, images, labels)
    if pruning.scores == "random":
        return random_scores(score_key, experiment.params), 0
    if pruning.scores == "grasp":
        return jax.jit(lambda p, *a: grasp_scores(loss, p, *a))(experiment.params, *args), 0
    scores = jax.jit(
        lambda p, *a: zo_grasp_scores(
            loss,
            p,
            *a,
            key=score_key,
            smoothing=pruning.smoothing,
            num_directions=pruning.num_directions,
            step=pruning.step,
            variant=pruning.variant,
        )
    )(experiment.params, *args)
    return scores, 2 * (pruning.num_directions + 1)


def _origin(config: Config) -> dict[str, Any]:
    """What layer ratios depend on, for comparison with a file of them."""
    content = identity(config)
    pruning = {
        name: value
        for name, value in content["pruning"].items()
        if name not in ("mask_interval", "mask")
    }
    data = {"name": content["data"]["name"]}
    return {"seed": config.seed, "model": content["model"], "data": data, "pruning": pruning}


def find_ratios(experiment: Experiment, workdir: Path, say: Any = print) -> dict[str, Any]:
    """The ratios file of a run folder; computed and written, with picture, when missing.

    Raises:
      ValueError: the file there belongs to another model or to other settings.
    """
    path = workdir / "ratios.json"
    origin = _origin(experiment.config)
    if agree(path.exists()):
        content = load_ratios(path)
        _check_fit(experiment, content, path)
        differing = differences(content.get("origin"), origin)
        if differing:
            raise ValueError(
                f"{path} was made by another config: {'; '.join(differing)}. "
                "Choose another folder with --workdir"
            )
        return content
    pruning = experiment.config.pruning
    say(f"scoring {pruning.scores}, sparsity {pruning.sparsity:g} …")
    scores, queries = compute_scores(experiment)
    ratios = layer_ratios(scores, pruning.sparsity, prune=pruning.prune)
    content = {
        "origin": origin,
        "num_queries": queries,
        "ratios": in_layer_order(ratios, layer_names(experiment.model)),
    }
    if is_lead():
        _write(experiment, content, scores, workdir)
    wait_for_all("ratios")
    return content


def _write(experiment: Experiment, content: dict[str, Any], scores: PyTree, workdir: Path) -> None:
    pruning = experiment.config.pruning
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        save_mask(workdir / "mask.npz", prune_mask(scores, pruning.sparsity, prune=pruning.prune))
        title = f"{experiment.config.model.name}, {pruning.scores}, sparsity {pruning.sparsity:g}"
        plot_ratios(content["ratios"], title, workdir / "ratios.png")
        write_json(workdir / "ratios.json", content)
    except OSError as error:
        raise ValueError(
            f"cannot write to the run folder {workdir} ({error.strerror}); "
            "choose another with --workdir"
        ) from error


def _check_fit(experiment: Experiment, content: dict[str, Any], path: Path) -> None:
    try:
        check_ratios(experiment.params, content["ratios"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; choose another folder with --workdir") from error


def describe_ratios(experiment: Experiment, content: dict[str, Any]) -> str:
    """The table of a ratios file."""
    leaves = jax.tree.leaves(experiment.params)
    sizes = {
        path: int(np.size(leaf))
        for path, leaf in zip(leaf_paths(experiment.params), leaves, strict=True)
    }
    return ratios_table(content["ratios"], sizes)
