"""A run of an experiment: its coordinates chosen, its step bound, its memory minded."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from configs.experiment import (
    Experiment,
    make_estimator,
    num_steps,
    optimizer_and_schedule,
    run_key,
)
from configs.sampling import choose_sampler, measure_prices
from deepzero_jax.estimators import sharded
from deepzero_jax.training import loop
from deepzero_jax.training.step import TrainState, TrainStep, make_step


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
    sampler, params, queries = choose_sampler(experiment, workdir, say)
    optimizer, schedule = optimizer_and_schedule(
        config, num_steps(experiment), task.steps_per_epoch
    )
    step = make_step(task, experiment.estimator, optimizer, sampler, experiment.mesh)
    state = step.init(run_key(config, "run"), params, experiment.model_state)
    return Run(step, schedule, measure_prices(experiment, step, state, say), queries)


def run_in_memory(
    experiment: Experiment,
    run: Run,
    workdir: Path,
    settings: loop.Settings,
    say: Any = print,
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
                say,
            )
        except jax.errors.JaxRuntimeError as error:
            automatic = experiment.config.estimator.batch_size == "auto"
            if "RESOURCE_EXHAUSTED" not in str(error) or not automatic or share >= 1024:
                raise
        share *= 2
        print(f"out of memory: estimator.batch_size is now auto/{share}", file=sys.stderr)
        halved = dataclasses.replace(experiment.config.estimator, batch_size=f"auto/{share}")
        estimator = make_estimator(dataclasses.replace(experiment.config, estimator=halved))
        estimator = sharded(estimator, experiment.mesh)
        experiment = experiment._replace(estimator=estimator)
        run = prepare_run(experiment, workdir, say)
