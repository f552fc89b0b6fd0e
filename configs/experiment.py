"""From a configuration to the objects of a run. Nothing else reads configurations."""

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from configs.loading import identity, leaf_fields
from configs.schema import Config
from deepzero_jax.coordinates import check_ratios, leaf_paths, masked_coordinates, nearest
from deepzero_jax.data import DATASETS, Dataset
from deepzero_jax.estimators import Estimator, cge, first_order, rge
from deepzero_jax.models import MODELS, LayeredModel
from deepzero_jax.pruning import (
    grasp_scores,
    layer_ratios,
    prune_mask,
    prune_params,
    random_scores,
    zo_grasp_scores,
)
from deepzero_jax.pruning.report import (
    in_layer_order,
    load_mask,
    load_ratios,
    plot_ratios,
    ratios_table,
    save_mask,
)
from deepzero_jax.sampling import Sampler, dense_sampler, fixed_sampler, layer_ratio_sampler
from deepzero_jax.training import loop
from deepzero_jax.training.folder import differences, write_json
from deepzero_jax.training.loop import Settings
from deepzero_jax.training.optimizer import learning_rate_schedule, make_optimizer
from deepzero_jax.training.step import TrainState, TrainStep, make_step
from deepzero_jax.training.task import Task, classification_task, scoring_batch

PyTree = Any
_SCORES = ("grasp", "random", "zo_grasp")


class Experiment(NamedTuple):
    """The objects of a run, before its coordinates are chosen.

    Attributes:
      config: what they were made from.
      model: the network.
      dataset: in memory.
      task: the problem for the loop.
      estimator: of gradients.
      params: at initialisation.
      model_state: likewise.
    """

    config: Config
    model: LayeredModel
    dataset: Dataset
    task: Task
    estimator: Estimator
    params: PyTree
    model_state: PyTree


def choose(kind: str, name: str, known: Any) -> Any:
    """The entry of a dictionary, or ValueError that lists what there is."""
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}, {nearest(name, list(known))}; known: {', '.join(known)}"
        )
    return known[name]


def make_estimator(config: Config) -> Estimator:
    """Builds the estimator that a config names."""
    chosen = config.estimator
    makers = {
        "cge": lambda: cge(
            smoothing=chosen.smoothing,
            central=chosen.central,
            reuse=chosen.reuse,
            delta_dtype=chosen.delta_dtype,
            batch_size=_batch_size(chosen.batch_size),
        ),
        "rge": lambda: rge(
            smoothing=chosen.smoothing,
            num_directions=chosen.num_directions,
            distribution=chosen.distribution,
            reuse=chosen.reuse,
            delta_dtype=chosen.delta_dtype,
            batch_size=_batch_size(chosen.batch_size),
        ),
        "first_order": first_order,
    }
    return choose("estimator", chosen.name, makers)()


def _batch_size(value: int | str) -> int | str:
    return int(value) if isinstance(value, str) and value.isdigit() else value


def check_fields(config: Config) -> None:
    """Checks what costs nothing to check, before any data is read."""
    choose("model", config.model.name, MODELS)
    choose("data set", config.data.name, DATASETS)
    choose("scores", config.pruning.scores, dict.fromkeys(_SCORES))
    if not 0.0 <= config.pruning.sparsity < 1.0:
        raise ValueError(f"pruning.sparsity must lie in [0, 1), got {config.pruning.sparsity}")
    for section, name in (
        ("training", "num_epochs"),
        ("training", "evaluation_epochs"),
        ("pruning", "samples_per_class"),
    ):
        value = getattr(getattr(config, section), name)
        if not value > 0:
            raise ValueError(f"{section}.{name} must be positive, got {value}")
    if config.training.num_steps is not None and config.training.num_steps < 1:
        raise ValueError(f"training.num_steps must be at least 1, got {config.training.num_steps}")
    if config.optimizer.warmup_epochs < 0:
        raise ValueError(
            f"warmup_epochs must not be negative, got {config.optimizer.warmup_epochs}"
        )
    make_estimator(config)
    interval_steps(config.pruning.mask_interval, 1)
    _optimizer(config, num_steps=1, steps_per_epoch=1)


def build(config: Config) -> Experiment:
    """Builds everything but the choice of coordinates; reads the data.

    Raises:
      ValueError: a value that is not allowed; the message names the field.
      FileNotFoundError: a data set that is not there.
    """
    check_fields(config)
    extra = {"dir": config.data.dir, "archive": config.data.archive}
    names = {"cifar10": {"directory": extra["dir"], "archive": extra["archive"]}}
    dataset = choose("data set", config.data.name, DATASETS)(**names.get(config.data.name, {}))
    options: dict[str, Any] = {"num_classes": dataset.num_classes}
    if config.model.width is not None:
        options["width"] = config.model.width
    model = choose("model", config.model.name, MODELS)(**options)
    task = classification_task(model, dataset, config.data.batch_size, config.data.augment)
    params, model_state = task.init(_key(config, "init"))
    return Experiment(config, model, dataset, task, make_estimator(config), params, model_state)


def _key(config: Config, purpose: str) -> jax.Array:
    purposes = ("init", "pruning", "run")
    return jax.random.fold_in(jax.random.key(config.seed), purposes.index(purpose))


def interval_steps(text: str, steps_per_epoch: int) -> int:
    """Steps in ``"5 epochs"`` or ``"1 step"``; ValueError for anything else."""
    found = re.fullmatch(r"(\d+) *(step|epoch)s?", text.strip())
    if not found or int(found[1]) < 1:
        raise ValueError(f'mask_interval must read like "5 epochs" or "1 step", got {text!r}')
    return int(found[1]) * (steps_per_epoch if found[2] == "epoch" else 1)


def num_steps(experiment: Experiment) -> int:
    """Steps of the whole run."""
    training = experiment.config.training
    if training.num_steps is not None:
        return training.num_steps
    return max(1, round(training.num_epochs * experiment.task.steps_per_epoch))


def settings(experiment: Experiment, name: str, queries: int, plan_only: bool) -> Settings:
    """Length and intervals for the loop."""
    training = experiment.config.training
    steps = experiment.task.steps_per_epoch
    return Settings(
        name=name,
        num_steps=num_steps(experiment),
        evaluation_interval=max(1, round(training.evaluation_epochs * steps)),
        checkpoint_seconds=training.checkpoint_seconds,
        initial_queries=queries,
        plan_only=plan_only,
    )


def _optimizer(config: Config, num_steps: int, steps_per_epoch: int) -> tuple[Any, Any]:
    chosen = config.optimizer
    schedule = learning_rate_schedule(
        chosen.schedule,
        chosen.learning_rate,
        num_steps,
        round(chosen.warmup_epochs * steps_per_epoch),
    )
    optimizer = make_optimizer(
        chosen.name,
        schedule,
        momentum=chosen.momentum,
        nesterov=chosen.nesterov,
        weight_decay=chosen.weight_decay,
        mask=config.pruning.mask,
    )
    return optimizer, schedule


def compute_scores(experiment: Experiment) -> tuple[PyTree, int]:
    """Scores of the parameters at initialisation and the queries they cost."""
    pruning = experiment.config.pruning
    batch_key, score_key = jax.random.split(_key(experiment.config, "pruning"))
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
    if path.exists():
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
        "ratios": in_layer_order(ratios, experiment.model.layer_names),
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        save_mask(workdir / "mask.npz", prune_mask(scores, pruning.sparsity, prune=pruning.prune))
        title = f"{experiment.config.model.name}, {pruning.scores}, sparsity {pruning.sparsity:g}"
        plot_ratios(content["ratios"], title, workdir / "ratios.png")
        write_json(path, content)
    except OSError as error:
        raise ValueError(
            f"cannot write to the run folder {workdir} ({error.strerror}); "
            "choose another with --workdir"
        ) from error
    return content


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


class Run(NamedTuple):
    """What the loop takes.

    Attributes:
      step: the training step.
      schedule: learning rate by step.
      initial_state: at step 0.
      queries: already spent on pruning.
    """

    step: TrainStep
    schedule: Any
    initial_state: TrainState
    queries: int


def prepare_run(experiment: Experiment, workdir: Path, say: Any = print) -> Run:
    """Chooses coordinates (scoring if need be) and binds everything into a training step."""
    config, task = experiment.config, experiment.task
    params, queries = experiment.params, 0
    sampler: Sampler
    if config.pruning.sparsity == 0:
        sampler = dense_sampler(params)
    else:
        content = find_ratios(experiment, workdir, say)
        queries = content["num_queries"]
        if config.pruning.mask == "weights":
            mask = load_mask(workdir / "mask.npz", params)
            params = prune_params(params, mask)
            sampler = fixed_sampler(masked_coordinates(mask))
        else:
            interval = interval_steps(config.pruning.mask_interval, task.steps_per_epoch)
            sampler = layer_ratio_sampler(params, content["ratios"], interval)
    optimizer, schedule = _optimizer(config, num_steps(experiment), task.steps_per_epoch)
    step = make_step(task, experiment.estimator, optimizer, sampler)
    state = step.init(_key(config, "run"), params, experiment.model_state)
    return Run(step, schedule, state, queries)


def run_in_memory(
    experiment: Experiment, run: Run, workdir: Path, settings: Settings
) -> dict[str, Any] | None:
    """Runs the loop; out of device memory, halves the chunks, says so, and goes on."""
    share = 1
    while True:
        try:
            return loop.run(
                experiment.task,
                experiment.estimator,
                run.step,
                run.schedule,
                run.initial_state,
                workdir,
                settings,
            )
        except jax.errors.JaxRuntimeError as error:
            automatic = experiment.config.estimator.batch_size == "auto"
            if "RESOURCE_EXHAUSTED" not in str(error) or not automatic or share >= 1024:
                raise
        share *= 2
        print(f"out of memory: estimator.batch_size is now auto/{share}", file=sys.stderr)
        halved = dataclasses.replace(experiment.config.estimator, batch_size=f"auto/{share}")
        estimator = make_estimator(dataclasses.replace(experiment.config, estimator=halved))
        experiment = experiment._replace(estimator=estimator)
        run = prepare_run(experiment, workdir)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX is already told where to."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "deepzero_jax"))


__all__ = ["build", "describe_ratios", "find_ratios", "leaf_fields", "prepare_run", "settings"]
