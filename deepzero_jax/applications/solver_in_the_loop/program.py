"""Trained and judged corrections of a solver, each stage a run of the loop."""

import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.solver_in_the_loop.cases import CASES, Case
from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig
from deepzero_jax.applications.solver_in_the_loop.methods import (
    METHODS,
    Correction,
    Method,
    corrected,
    make_correction,
)
from deepzero_jax.applications.solver_in_the_loop.pictures import plot_errors
from deepzero_jax.applications.solver_in_the_loop.rollout import mean_absolute_errors, rollout
from deepzero_jax.bars import bar
from deepzero_jax.blackbox import HostFunction
from deepzero_jax.programs import Program, Run, run_of
from deepzero_jax.registry import present
from deepzero_jax.training import Json, Place, Stages, Trained, where_to_ask, write_json
from deepzero_jax.types import Log, Params

# Of each training: as many points has its curve of error against samples.
_NUM_EVALUATIONS = 12


def build_correction(
    config: SolverConfig, case: Case, host: HostFunction | None = None
) -> Correction:
    """Measures what the coarse solver makes of the fine solutions of a case.

    Args:
      config: whose fields ``check_fields`` has found right.
      case: of ``CASES``, built from the same config.
      host: in place of the coarse NumPy solver, states [n, …] to the same.
    """
    training = config.training
    return make_correction(
        case.frames,
        host or case.host,
        case.twin,
        case.network,
        training.unroll,
        training.batch_size,
        case.mask,
    )


def train_corrections(
    config: SolverConfig,
    workdir: Path,
    log: Log = print,
    host: HostFunction | None = None,
) -> Json:
    """Trains every method from every seed, judges them, writes ``summary.json`` and pictures.

    Args:
      config: whose fields ``check_fields`` has found right.
      workdir: the run folder.
      log: takes a line for the person who watches.
      host: as in ``build_correction``.

    Raises:
      ValueError: too few frames, or a stage that cannot be read back.
      RunFolderError: the folder is of another config, or another process works in it.
      ImportError: exponax is not installed.
      InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
    """
    with run_of(config, workdir, log) as run:
        return _train(config, run, host)


def _train(config: SolverConfig, run: Run, host: HostFunction | None = None) -> Json:
    run.hold()
    run.claim()
    workdir, log = run.workdir, run.log
    stages, training = stages_of(config, workdir, log), config.training
    log(f"{config.case}: the fine solutions, and the coarse solver's answers to them …")
    with bar("fine solutions", log):
        case = CASES[config.case](config, workdir)
    with stages.asking("preparation"), bar("the coarse solver's answers", log):
        correction = build_correction(config, case, host)
    log(
        f"the solver alone: error {correction.step_error**0.5:.3g} after a step, "
        f"{correction.unrolled_error**0.5:.3g} over {training.unroll} steps (root mean square)"
    )
    log(f"\n{places_of(config, correction)}")
    params, runs = _train_methods(config, stages, correction)
    with stages.asking("test"), bar("judging by the test runs", log):
        errors = {name: _test_errors(correction, params[name]) for name in params}
        first = _first_test_run(correction, params)
    plot_errors(errors, case.dt, workdir / "error_against_time.png")
    case.draw(correction.frames.test[0], first, workdir)
    of_seeds = {name: values.mean((1, 2)) for name, values in errors.items()}
    of_runs = {name: values.mean((0, 2)) for name, values in errors.items()}
    summary = {
        "name": workdir.name,
        "mae": {name: float(values.mean()) for name, values in of_seeds.items()},
        "mae_of_seeds": {name: values.tolist() for name, values in of_seeds.items()},
        "mae_of_test_runs": {name: values.tolist() for name, values in of_runs.items()},
        "num_queries": {name: runs[name][0]["num_queries"] for name in runs},
        "num_samples": {name: _samples_of_a_training(runs[name]) for name in runs},
        "box_samples": stages.box_samples,
        "training_seconds": {name: _seconds_of_a_training(runs[name]) for name in runs},
        "num_parameters": num_parameters(correction),
        "num_seeds": training.num_seeds,
        "num_test_runs": len(correction.frames.test),
        "wall_seconds": stages.wall_seconds,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }
    write_json(workdir / "summary.json", summary)
    _report(summary, log)
    return summary


def stages_of(config: SolverConfig, workdir: Path, log: Log = print) -> Stages:
    """The stages of a run folder: a method and a seed each."""
    # The methods of a seed start alike and see the same windows.
    keys = {f"{name}_{seed}": seed for name in METHODS for seed in range(config.training.num_seeds)}
    return Stages(config.seed, keys, workdir, config.training.checkpoint_seconds, log)


def _train_methods(
    config: SolverConfig, stages: Stages, correction: Correction
) -> tuple[dict[str, list[Params | None]], dict[str, list[Json]]]:
    """Parameters of every method, seed by seed (None: it has none), and summaries of its runs."""
    training, seeds = config.training, range(config.training.num_seeds)
    params: dict[str, list[Params | None]] = {name: [None] for name in training.methods}
    runs: dict[str, list[Json]] = {}
    for name in training.methods:
        way = METHODS[name]
        if way is None:
            continue
        smoothing = training.boundary_smoothing if way.at_boundary else training.smoothing
        # One to be probed is replaced seed by seed.
        estimator = way.estimator(1.0 if smoothing == "auto" else smoothing, training.chunk_size)
        with stages.asking("preparation"), bar(f"preparing {name}", stages.log):
            method = way.make(correction, estimator)
        found = [_train_method(name, seed, config, stages, method) for seed in seeds]
        params[name] = [of_seed.params for of_seed in found]
        runs[name] = [of_seed.summary for of_seed in found]
    return params, runs


def places_of(config: SolverConfig, correction: Correction) -> str:
    """The table "where to ask": what a step of each method asks of the solver, and others would."""
    training, moving = config.training, correction.num_moving
    rows = [
        Place("parameters of the network", num_parameters(correction), method="zo_sol"),
        Place("inputs of the solver", moving, method="zo_sol_boundary"),
        Place("inputs, random directions", moving, 16, "directions"),
    ]
    return where_to_ask(rows, training.batch_size * training.unroll, training.methods)


def _train_method(
    name: str, seed: int, config: SolverConfig, stages: Stages, method: Method
) -> Trained:
    training, stage, probing = config.training, f"{name}_{seed}", None
    way = present(METHODS, name)
    if training.smoothing == "auto" and way.queries:
        batch_key, init_key = jax.random.split(stages.key(stage))
        params, model_state = method.task.init(init_key)
        loss = method.task.loss_on_a_batch(model_state, batch_key)
        probing = stages.probing(stage, loss, params)
        make = lambda smoothing: way.estimator(smoothing, training.chunk_size)
        method = method._replace(estimator=probing.estimator(make))
    return stages.run(
        stage,
        *method,
        training.num_steps,
        training.learning_rate,
        probing=probing,
        num_evaluations=_NUM_EVALUATIONS,
    )


def _samples_of_a_training(runs: list[Json]) -> int:
    """Sent to the solver for its steps, in the mean over seeds.

    What a kill has let a seed send twice is in it: it is what was paid, not what a step takes.
    """
    asked = [run.get("box_samples", {}).get("training", 0) for run in runs]
    return round(sum(asked) / len(asked))


def _seconds_of_a_training(runs: list[Json]) -> float:
    return round(float(np.mean([run["wall_seconds"] for run in runs])), 1)


def num_parameters(correction: Correction) -> int:
    """Of the correction network."""
    state = jnp.zeros((1, *correction.frames.train.shape[2:]))
    shapes = jax.eval_shape(correction.network.init, jax.random.key(0), state)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _test_errors(correction: Correction, params: list[Params | None]) -> np.ndarray:
    """[seeds, runs, frames]."""
    test = jnp.asarray(correction.frames.test)
    judge = jax.jit(lambda p: mean_absolute_errors(corrected(correction, p), test))
    return np.stack([np.asarray(judge(p)) for p in params])


def _first_test_run(
    correction: Correction, params: Mapping[str, list[Params | None]]
) -> Mapping[str, np.ndarray]:
    """Rollouts of every method, of its first seed: [frames, …], the true first frame included."""
    truth, found = correction.frames.test[0], {}
    for name, of_seeds in params.items():
        step = corrected(correction, of_seeds[0])
        frames = jax.jit(lambda state, step=step: rollout(step, state, len(truth) - 1))(truth[:1])
        found[name] = np.concatenate([truth[:1], np.asarray(frames)[:, 0]])
    return found


def _report(summary: Json, log: Log) -> None:
    log(f"\nmean absolute error over {summary['num_test_runs']} test runs")
    width = max(map(len, ("method", *summary["mae"])))
    log(f"{'method':<{width}}  error    of the seeds")
    for name, values in summary["mae_of_seeds"].items():
        shown = ", ".join(f"{value:.5f}" for value in values)
        log(f"{name:<{width}}  {summary['mae'][name]:.5f}  {shown}")


def describe(summary: Json) -> str:
    """The result of a run in a line."""
    known = {name: math.nan if mae is None else mae for name, mae in summary["mae"].items()}
    words = ", ".join(f"{name} {mae:.5f}" for name, mae in known.items())
    return f"mean absolute error {words}; see summary.json and the pictures"


PROGRAM = Program(_train, describe)
