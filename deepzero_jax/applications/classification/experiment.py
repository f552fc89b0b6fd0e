"""From a record to the objects of a run."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from deepzero_jax.applications.classification.config import Config
from deepzero_jax.blackbox import asks_host
from deepzero_jax.data import Dataset
from deepzero_jax.estimators import (
    ESTIMATORS,
    CoordinateEstimator,
    DirectionEstimator,
    Estimator,
    cge,
    sharded,
)
from deepzero_jax.fields import default_of
from deepzero_jax.models import Model, make_model
from deepzero_jax.programs import cache_folder, identity
from deepzero_jax.registry import call_with
from deepzero_jax.sharding import COORDINATES, DATA, make_mesh
from deepzero_jax.training import (
    Probing,
    Schedule,
    Task,
    classification_task,
    find_probe,
    learning_rate_schedule,
    make_optimizer,
)
from deepzero_jax.training.optimizer import check_optimizer
from deepzero_jax.types import Key, Log, Params, PyTree

MAX_STEPS = 2**31 - 1  # steps are int32


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
      probing: that the smoothing follows from; None where the record gives it.
    """

    config: Config
    model: Model
    dataset: Dataset
    task: Task
    estimator: Estimator
    mesh: Mesh
    params: Params
    model_state: PyTree
    probing: Probing | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        training = self.config.training
        if training.num_steps is not None:
            return training.num_steps
        return max(1, round(training.num_epochs * self.task.steps_per_epoch))

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        epochs = self.config.training.evaluation_epochs
        return max(1, round(epochs * self.task.steps_per_epoch))

    def key(self, purpose: str) -> Key:
        """The key of one purpose of the run: "init", "pruning", "run" or "probing"."""
        return run_key(self.config, purpose)


def run_key(config: Config, purpose: str) -> Key:
    """The key of one purpose of a run: "init", "pruning", "run" or "probing"."""
    purposes = ("init", "pruning", "run", "probing")
    return jax.random.fold_in(jax.random.key(config.seed), purposes.index(purpose))


def make_estimator(config: Config, probing: Probing | None = None) -> Estimator:
    """Builds the estimator that a record names, at its smoothing or a probed one.

    Without either it has the smoothing that is the default of ``cge``.
    """
    chosen = config.estimator
    if probing is not None:
        number = lambda smoothing: replace(chosen, smoothing=smoothing)
        make = lambda smoothing: make_estimator(replace(config, estimator=number(smoothing)))
        return probing.estimator(make, chosen.central)
    options = {**vars(chosen), "batch_size": chosen.chunk_size}
    if chosen.smoothing == "auto":
        options["smoothing"] = default_of(cge, "smoothing")
    estimator = call_with(ESTIMATORS[chosen.name], options)
    if not isinstance(estimator, Estimator):
        raise ValueError(
            f"estimator {chosen.name!r} must make an estimator, got {type(estimator).__name__}"
        )
    return estimator


def build(config: Config) -> Experiment:
    """Builds everything but the choice of coordinates; reads the data.

    Args:
      config: whose fields ``check_fields`` has found right.

    Raises:
      ValueError: a value that the data, the devices or a black box in the network do not allow.
      FileNotFoundError: a data set that is not there.
    """
    mesh = make_mesh(config.mesh.coordinates, config.mesh.data)
    estimator = sharded(make_estimator(config), mesh)
    dataset = config.data.load(cache_folder())
    model = make_model(config.model.name, dataset.num_classes, config.model.width)
    cut = config.estimator.reuse == "split" and config.estimator.name == "cge"
    task = classification_task(model, dataset, config.data.batch_size, config.data.augment, cut)
    params, model_state = task.init(run_key(config, "init"))
    experiment = Experiment(config, model, dataset, task, estimator, mesh, params, model_state)
    if experiment.num_steps > MAX_STEPS:
        raise ValueError(
            f"training.num_epochs {config.training.num_epochs:g} comes to "
            f"{experiment.num_steps:,} steps, and at most {MAX_STEPS:,} can be counted"
        )
    _check_devices(experiment)
    return experiment


def _check_devices(experiment: Experiment) -> None:
    """Raises ValueError where JAX would not call the host: from devices that share two things."""
    is_spread = isinstance(experiment.estimator, CoordinateEstimator | DirectionEstimator)
    coordinates, data = experiment.mesh.shape[COORDINATES], experiment.mesh.shape[DATA]
    if is_spread and min(coordinates, data) > 1 and _asks_host(experiment):
        raise ValueError(
            f"mesh.data={data} shares a batch between devices and mesh.coordinates={coordinates} "
            "the coordinates, and a network that asks a black box can be shared in one way alone; "
            "give --config.mesh.data=1 or --config.mesh.coordinates=1"
        )


def _asks_host(experiment: Experiment) -> bool:
    """Whether the loss on a batch calls the host; one trace."""
    fun = experiment.task.loss_on_a_batch(experiment.model_state, experiment.key("probing"))
    return asks_host(jax.make_jaxpr(fun)(experiment.params).eqns)


def needs_probe(experiment: Experiment) -> bool:
    """Whether the smoothing of a run is to be probed.

    Propagated differences of a loss that asks no host have no noise: they need no probe, and
    keep the default.
    """
    if not _is_open(experiment):
        return False
    return experiment.config.estimator.reuse != "difference" or _asks_host(experiment)


def _is_open(experiment: Experiment) -> bool:
    """Whether the smoothing is "auto" and not probed yet; autodiff has none."""
    chosen = experiment.config.estimator
    return chosen.smoothing == "auto" and chosen.name != "first_order" and not experiment.probing


def with_probed_smoothing(experiment: Experiment, folder: Path, log: Log = print) -> Experiment:
    """The same experiment; where its smoothing is "auto" and needs a probe, at a probed one.

    Args:
      experiment: of the run.
      folder: of the run, which keeps what was probed.
      log: takes a line.

    Raises:
      BlackBoxError: from ``find_probe``.
    """
    if not needs_probe(experiment):
        if _is_open(experiment):
            why = "propagated differences do not cancel, and have no noise"
            log(f"the smoothing is not probed: {why}")
        return experiment
    batch_key, key = jax.random.split(experiment.key("probing"))
    fun = experiment.task.loss_on_a_batch(experiment.model_state, batch_key)
    config = identity(experiment.config)
    return at_probe(experiment, find_probe(fun, experiment.params, key, folder, log, config))


def at_probe(experiment: Experiment, probing: Probing) -> Experiment:
    """The same experiment at a probed smoothing."""
    estimator = sharded(make_estimator(experiment.config, probing), experiment.mesh)
    return experiment._replace(estimator=estimator, probing=probing)


def at_stand_in(experiment: Experiment) -> Experiment:
    """The same experiment; if its smoothing is to be probed, with one that moves its parameters.

    For the time of a step, which no smoothing changes. Its record still says "auto".
    """
    if not needs_probe(experiment):
        return experiment
    config, leaves = experiment.config, jax.tree.leaves(experiment.params)
    resolutions = [float(jax.numpy.finfo(jax.numpy.result_type(leaf)).eps) for leaf in leaves]
    step = max([default_of(cge, "smoothing"), *(2 * eps for eps in resolutions)])
    config = replace(config, estimator=replace(config.estimator, smoothing=step))
    return experiment._replace(estimator=sharded(make_estimator(config), experiment.mesh))


def optimizer_and_schedule(
    experiment: Experiment,
) -> tuple[optax.GradientTransformationExtraArgs, Schedule]:
    """The optax chain that a record names, and its learning rate by step."""
    config, chosen = experiment.config, experiment.config.optimizer
    schedule = learning_rate_schedule(
        chosen.schedule,
        chosen.learning_rate,
        experiment.num_steps,
        round(chosen.warmup_epochs * experiment.task.steps_per_epoch),
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
    check_optimizer(optimizer, experiment.params, optimizer.init(experiment.params))
    return optimizer, schedule
