"""Trains an image classifier: coordinates chosen, step compiled, memory minded."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax

from deepzero_jax.applications.classification.config import Config
from deepzero_jax.applications.classification.experiment import (
    Experiment,
    build,
    make_estimator,
    optimizer_and_schedule,
    with_probed_smoothing,
)
from deepzero_jax.applications.classification.outlook import check_affordable, plan_run
from deepzero_jax.applications.classification.ratios import (
    count_what_was_sent,
    describe_ratios,
    find_ratios,
)
from deepzero_jax.applications.classification.sampling import (
    check_measurable,
    choose_sampler,
    measure_prices,
)
from deepzero_jax.applications.classification.unused import unused_settings
from deepzero_jax.bars import bar
from deepzero_jax.estimators import sharded
from deepzero_jax.programs import Program, Run
from deepzero_jax.sharding import by_lead
from deepzero_jax.training import (
    CompiledStep,
    Json,
    SamplesFile,
    Schedule,
    TrainState,
    TrainStep,
    train,
)
from deepzero_jax.types import Log


class Prepared(NamedTuple):
    """A run before its first step.

    Attributes:
      experiment: what it was made from.
      step: compiled.
      schedule: learning rate by step.
      state: at step 0, placed.
      begin: what is done to it where there is no checkpoint to go on from: prices measured, if
        the budget is one of seconds.
      num_queries: already spent on pruning.
      num_samples: of black boxes, already spent, by purpose.
    """

    experiment: Experiment
    step: CompiledStep
    schedule: Schedule
    state: TrainState
    begin: Callable[[TrainState], TrainState]
    num_queries: int
    num_samples: Mapping[str, int] = MappingProxyType({})


def prepare_run(experiment: Experiment, workdir: Path, log: Log = print) -> Prepared:
    """Chooses coordinates (scoring if need be), compiles the step.

    Args:
      experiment: of the run.
      workdir: the run folder.
      log: takes a line.

    Raises:
      ValueError: from ``find_ratios`` and ``check_measurable``.
      BlackBoxError: a box that gives no answer, or a budget too small for the first step.
    """
    # First, as what is refused here costs no query.
    optimizer, schedule = optimizer_and_schedule(experiment)
    check_measurable(experiment, workdir)
    boxes = count_what_was_sent(experiment, workdir)
    check_affordable(experiment, workdir, boxes)
    experiment = with_probed_smoothing(experiment, workdir, log)
    sampler, params, queries, samples = choose_sampler(experiment, workdir, log)
    step = TrainStep(experiment.task, experiment.estimator, optimizer, sampler, experiment.mesh)
    state = step.place(step.init(experiment.key("run"), params, experiment.model_state))
    with bar("compiling the step", log):
        compiled = step.compile(state)
    begin = partial(measure_prices, experiment, compiled, log=log)
    sent = by_lead(lambda: SamplesFile(workdir / "samples.json")).counts
    sent["pruning"] = max(samples, sent.get("pruning", 0))
    return Prepared(experiment, compiled, schedule, state, begin, queries, sent)


def train_prepared(prepared: Prepared, folder: Path, name: str, log: Log = print) -> Json:
    """Runs the loop."""
    experiment, training = prepared.experiment, prepared.experiment.config.training
    return train(
        prepared.step,
        prepared.state,
        folder=folder,
        num_steps=experiment.num_steps,
        schedule=prepared.schedule,
        evaluation_interval=experiment.evaluation_interval,
        checkpoint_seconds=training.checkpoint_seconds,
        initial_queries=prepared.num_queries,
        initial_samples=prepared.num_samples,
        probing=experiment.probing,
        begin=prepared.begin,
        name=name,
        log=log,
    )


def train_classifier(config: Config, run: Run) -> Json | None:
    """Trains a record, or goes on training it; prints the plan alone where that is asked for.

    Out of device memory it halves the chunks, says so, and goes on.
    """
    experiment = build(config)
    if run.plan_only:
        if config.estimator.smoothing == "auto" and run.workdir.exists():
            run.hold()  # its checkpoints are looked into
        run.log(str(plan_run(experiment, run.workdir, run.log)))
        return None
    run.hold()
    for told in unused_settings(config):
        run.log(told)
    prepared = prepare_run(experiment, run.workdir, run.log)
    run.claim()
    divisor = 1
    while True:
        try:
            return train_prepared(prepared, run.workdir, run.name, run.log)
        except jax.errors.JaxRuntimeError as error:
            automatic = config.estimator.chunk_size == "auto"
            if "RESOURCE_EXHAUSTED" not in str(error) or not automatic or divisor >= 1024:
                raise
        divisor *= 2
        print(f"out of memory: estimator.chunk_size is now auto/{divisor}", file=sys.stderr)
        experiment = with_chunks(prepared.experiment, f"auto/{divisor}")
        prepared = prepare_run(experiment, run.workdir, run.log)


def with_chunks(experiment: Experiment, chunk_size: str) -> Experiment:
    """The same experiment, its perturbed passes in other chunks."""
    config = experiment.config
    changed = dataclasses.replace(config.estimator, chunk_size=chunk_size)
    config = dataclasses.replace(config, estimator=changed)
    estimator = make_estimator(config, experiment.probing)
    return experiment._replace(config=config, estimator=sharded(estimator, experiment.mesh))


def describe(summary: Json) -> str:
    """The result of a run in a line."""
    return (
        f"test accuracy {100 * summary['test_accuracy']:.2f} %, "
        f"{summary['num_queries']:,} queries, {summary['num_steps']:,} steps, "
        f"{summary['wall_seconds']:.0f} s"
    )


def prune(config: Config, run: Run) -> str:
    """Scores the parameters at initialisation, writes the ratios, prints a table."""
    if config.pruning.sparsity == 0:
        raise ValueError(
            "pruning.sparsity is 0: nothing to prune; give --config.pruning.sparsity=0.9"
        )
    experiment = build(config)
    run.hold()
    found = find_ratios(experiment, run.workdir, run.log)
    run.log(describe_ratios(experiment, found))
    return f"{found.num_queries:,} queries; see {run.workdir}/ratios.json, ratios.png"


PROGRAM = Program(train_classifier, describe, prune, has_plan=True)
