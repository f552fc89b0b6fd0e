"""From a configuration to the objects of a run. Nothing else reads configurations."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from configs.schema import Config, Data
from deepzero_jax.coordinates import nearest
from deepzero_jax.data import DATASETS, Dataset
from deepzero_jax.estimators import Estimator, cge, first_order, rge, sharded
from deepzero_jax.models import MODELS, Model
from deepzero_jax.sharding import make_mesh
from deepzero_jax.training.loop import Settings
from deepzero_jax.training.optimizer import learning_rate_schedule, make_optimizer
from deepzero_jax.training.task import Task, classification_task

PyTree = Any
_SCORES = ("grasp", "random", "zo_grasp")
_SAMPLERS = ("layer_ratios", "price_aware", "blocks")


class Experiment(NamedTuple):
    """The objects of a run, before its coordinates are chosen.

    Attributes:
      config: what they were made from.
      model: the network.
      dataset: in memory.
      task: the problem for the loop.
      estimator: of gradients, over the devices of the mesh.
      mesh: devices.
      params: at initialisation.
      model_state: likewise.
    """

    config: Config
    model: Model
    dataset: Dataset
    task: Task
    estimator: Estimator
    mesh: Mesh
    params: PyTree
    model_state: PyTree


def choose(kind: str, name: str, known: Any) -> Any:
    """The entry of a dictionary, or ValueError that lists what there is."""
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}, {nearest(name, list(known))}; known: {', '.join(known)}"
        )
    return known[name]


def choose_all(kind: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in a comma-separated list; ValueError, as from ``choose``, if one is unknown."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        choose(kind, name, dict.fromkeys(known))
    return names


def numbers_in(field: str, text: str, example: str) -> list[float]:
    """The numbers in a comma-separated list; ValueError, naming the field, if one is none."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f'{field} must read like "{example}", got {text!r}') from error


def make_estimator(config: Config) -> Estimator:
    """Builds the estimator that a config names."""
    chosen = config.estimator
    makers = {
        "cge": lambda: cge(
            smoothing=chosen.smoothing,
            central=chosen.central,
            reuse=chosen.reuse,
            delta_dtype=chosen.delta_dtype,
            batch_size=chosen.batch_size,
        ),
        "rge": lambda: rge(
            smoothing=chosen.smoothing,
            num_directions=chosen.num_directions,
            distribution=chosen.distribution,
            reuse=chosen.reuse,
            delta_dtype=chosen.delta_dtype,
            batch_size=chosen.batch_size,
        ),
        "first_order": first_order,
    }
    return choose("estimator", chosen.name, makers)()


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
    _check_sampling(config)
    optimizer_and_schedule(config, num_steps=1, steps_per_epoch=1)


def _check_sampling(config: Config) -> None:
    sampling = config.sampling
    choose("sampling", sampling.name, dict.fromkeys(_SAMPLERS))
    _, unit = parse_budget(sampling.budget)
    if not 0 <= sampling.decay < 1:
        raise ValueError(f"sampling.decay must lie in [0, 1), got {sampling.decay}")
    if sampling.num_blocks < 1:
        raise ValueError(f"sampling.num_blocks must be at least 1, got {sampling.num_blocks}")
    if sampling.coherence is not None and (sampling.unbiased or sampling.name == "price_aware"):
        raise ValueError(
            "sampling.coherence keeps the estimates of other steps, so those of this one must "
            "not be divided by their rate: not with sampling.unbiased, not with price_aware"
        )
    if sampling.name != "layer_ratios" and config.pruning.mask == "weights":
        raise ValueError(
            f"sampling {sampling.name} draws anew every step, so pruning.mask cannot be weights; "
            "give --config.sampling.name=layer_ratios"
        )
    if sampling.name != "price_aware":
        return
    if config.estimator.name == "rge":
        raise ValueError(
            "sampling price_aware needs estimator cge, rge costs the same for all; "
            "give --config.sampling.name=layer_ratios"
        )
    if config.estimator.name == "first_order" and unit == "seconds":
        raise ValueError("sampling.budget in seconds needs estimator cge; give a percentage")
    if unit == "layer ratios" and config.pruning.sparsity == 0:
        raise ValueError(
            'sampling.budget "layer ratios" needs a pruning.sparsity above 0; or give "10 %"'
        )


def load_dataset(data: Data) -> Dataset:
    """Reads the data set that a config names."""
    where = {"directory": data.dir, "archive": data.archive, "cache": cache_folder()}
    return DATASETS[data.name](**where if data.name == "cifar10" else {})


def make_model(name: str, width: int | None, num_classes: int) -> Model:
    """Builds a network; width None: its own."""
    options = {} if width is None else {"width": width}
    return MODELS[name](num_classes=num_classes, **options)


def build(config: Config) -> Experiment:
    """Builds everything but the choice of coordinates; reads the data.

    Raises:
      ValueError: a value that is not allowed; the message names the field.
      FileNotFoundError: a data set that is not there.
    """
    check_fields(config)
    mesh = make_mesh(config.mesh.coordinates, config.mesh.data)
    if config.data.batch_size % config.mesh.data:
        raise ValueError(
            f"data.batch_size {config.data.batch_size} does not divide evenly over mesh.data="
            f"{config.mesh.data} devices"
        )
    dataset = load_dataset(config.data)
    model = make_model(config.model.name, config.model.width, dataset.num_classes)
    task = classification_task(model, dataset, config.data.batch_size, config.data.augment)
    params, model_state = task.init(run_key(config, "init"))
    estimator = sharded(make_estimator(config), mesh)
    return Experiment(config, model, dataset, task, estimator, mesh, params, model_state)


def run_key(config: Config, purpose: str) -> jax.Array:
    """The key of one purpose of a run: "init", "pruning" or "run"."""
    purposes = ("init", "pruning", "run")
    return jax.random.fold_in(jax.random.key(config.seed), purposes.index(purpose))


def interval_steps(text: str, steps_per_epoch: int) -> int:
    """Steps in ``"5 epochs"`` or ``"1 step"``; ValueError for anything else."""
    found = re.fullmatch(r"(\d+) *(step|epoch)s?", text.strip())
    if not found or int(found[1]) < 1:
        raise ValueError(f'mask_interval must read like "5 epochs" or "1 step", got {text!r}')
    return int(found[1]) * (steps_per_epoch if found[2] == "epoch" else 1)


def parse_budget(text: str) -> tuple[float, str]:
    """``"10 %"``, ``"2e12 multiply-adds"`` or ``"1.5 s"`` as a number and its unit.

    The unit is "fraction" (of the dense price), "multiply-adds" or "seconds";
    ``"layer ratios"`` is (1, "layer ratios"). ValueError for anything else.
    """
    if text.strip() == "layer ratios":
        return 1.0, "layer ratios"
    found = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?) *(%|multiply-adds|s)", text.strip())
    try:
        amount = float(found[1]) if found else 0.0
    except ValueError:
        amount = 0.0
    if found is None or not amount > 0:
        raise ValueError(
            'sampling.budget must read like "10 %", "2e12 multiply-adds", "1.5 s" or '
            f'"layer ratios", got {text!r}'
        )
    if found[2] == "%":
        return amount / 100, "fraction"
    return amount, "seconds" if found[2] == "s" else "multiply-adds"


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


def optimizer_and_schedule(config: Config, num_steps: int, steps_per_epoch: int) -> tuple[Any, Any]:
    """Builds the optax chain that a config names, and its learning rate by step."""
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
        coherence=config.sampling.coherence,
    )
    return optimizer, schedule


def cache_folder() -> Path:
    """Where the programs keep what they can make again: ``~/.cache/deepzero_jax``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepzero_jax"


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX is already told where to."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
        # A run compiles some eighty small programs, four seconds of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
