"""From a SolverConfig to trained and judged corrections, each stage a run of the loop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz
from configs.experiment import choose, choose_all
from configs.schema import SolverConfig
from configs.solver_cases import CASES, Case, reynolds_numbers
from configs.stages import Stages
from deepzero_jax.applications.solver_in_the_loop.methods import (
    METHODS,
    Correction,
    corrected,
    default_estimator,
    make_correction,
    make_task,
)
from deepzero_jax.applications.solver_in_the_loop.pictures import plot_errors
from deepzero_jax.applications.solver_in_the_loop.rollout import mean_absolute_errors, rollout
from deepzero_jax.applications.solver_in_the_loop.wake import ADVECTIONS
from deepzero_jax.training.folder import write_json

PyTree = Any


def check_fields(config: SolverConfig) -> None:
    """Checks what costs nothing to check, before any solver runs."""
    choose_all("method", config.training.methods, METHODS)
    choose("case", config.case, CASES)
    choose("advection", config.channel.advection, dict.fromkeys(ADVECTIONS))
    for section in ("simulation", "channel", "correction", "training"):
        for name, value in vars(getattr(config, section)).items():
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"{section}.{name} must be positive, got {value}")
    for name in ("train_reynolds", "validation_reynolds", "test_reynolds"):
        reynolds_numbers(config, name)
    if config.correction.kernel % 2 == 0:
        raise ValueError(f"correction.kernel must be odd, got {config.correction.kernel}")
    if config.simulation.num_points < 8:
        raise ValueError(
            f"simulation.num_points must be at least 8, got {config.simulation.num_points}"
        )


def build_correction(config: SolverConfig, case: Case, host: Any = None) -> Correction:
    """Measures what the coarse solver makes of the fine solutions of a case.

    Args:
      config: whose fields ``check_fields`` has found right.
      case: of ``CASES``, built from the same config.
      host: in place of the coarse NumPy solver, states [n, …] to the same.
    """
    state = case.frames.train.shape[2:]
    training = config.training
    return make_correction(
        case.frames,
        dz.black_box(host or case.host, state, retries=0),
        case.twin,
        case.network,
        training.unroll,
        training.batch_size,
        case.mask,
    )


def train_corrections(
    config: SolverConfig,
    workdir: Path,
    say: Callable[[str], None] = print,
    host: Any = None,
) -> dict[str, Any]:
    """Trains every method from every seed, judges them, writes ``summary.json`` and pictures.

    Args:
      config: whose fields ``check_fields`` has found right.
      workdir: the run folder.
      say: prints a line.
      host: as in ``build_correction``.

    Raises:
      ValueError: too few frames, or a stage that cannot be read back.
      ImportError: exponax is not installed.
      InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
    """
    started = time.perf_counter()
    training = config.training
    say(f"{config.case}: the fine solutions, and the coarse solver's answers to them …")
    case = CASES[config.case](config, workdir)
    correction = build_correction(config, case, host)
    say(
        f"the solver alone: error {correction.step_error**0.5:.3g} after a step, "
        f"{correction.unrolled_error**0.5:.3g} over {training.unroll} steps (root mean square)"
    )
    names = choose_all("method", training.methods, METHODS)
    trained = [name for name in names if name != "src"]
    seeds = range(training.num_seeds)
    # The methods of a seed start alike and see the same windows.
    keys = {f"{name}_{seed}": seed for name in METHODS[1:] for seed in seeds}
    stages = Stages(config.seed, keys, workdir, training.checkpoint_seconds, say)
    params: dict[str, list[PyTree]] = {name: [None] for name in names}
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in trained:
        estimator = default_estimator(name, training.smoothing, training.chunk)
        task = make_task(name, correction)
        found = [
            stages.run(
                f"{name}_{seed}", task, estimator, training.num_steps, training.learning_rate
            )
            for seed in seeds
        ]
        params[name] = [of_seed[0] for of_seed in found]
        runs[name] = [of_seed[2] for of_seed in found]
    errors = {name: _test_errors(correction, params[name]) for name in names}
    plot_errors(errors, case.dt, workdir / "error_against_time.png")
    case.draw(correction.frames.test[0], _first_test_run(correction, params), workdir)
    of_seeds = {name: values.mean((1, 2)) for name, values in errors.items()}
    of_runs = {name: values.mean((0, 2)) for name, values in errors.items()}
    summary = {
        "name": workdir.name,
        "mae": {name: float(values.mean()) for name, values in of_seeds.items()},
        "mae_of_seeds": {name: values.tolist() for name, values in of_seeds.items()},
        "mae_of_test_runs": {name: values.tolist() for name, values in of_runs.items()},
        "num_queries": {name: runs[name][0]["num_queries"] for name in trained},
        "training_seconds": {
            name: round(float(np.mean([run["wall_seconds"] for run in runs[name]])), 1)
            for name in trained
        },
        "num_parameters": num_parameters(correction),
        "num_seeds": training.num_seeds,
        "num_test_runs": len(correction.frames.test),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }
    write_json(workdir / "summary.json", summary)
    _report(summary, say)
    return summary


def num_parameters(correction: Correction) -> int:
    """Of the correction network."""
    state = jnp.zeros((1, *correction.frames.train.shape[2:]))
    shapes = jax.eval_shape(correction.network.init, jax.random.key(0), state)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _test_errors(correction: Correction, params: list[PyTree]) -> np.ndarray:
    """[seeds, runs, frames]."""
    test = jnp.asarray(correction.frames.test)
    judge = jax.jit(lambda p: mean_absolute_errors(corrected(correction, p), test))
    return np.stack([np.asarray(judge(p)) for p in params])


def _first_test_run(correction: Correction, params: dict[str, list[PyTree]]) -> dict[str, Any]:
    """Rollouts of every method, of its first seed: [frames, …], the true first frame included."""
    truth, found = correction.frames.test[0], {}
    for name, of_seeds in params.items():
        step = corrected(correction, of_seeds[0])
        frames = jax.jit(lambda state, step=step: rollout(step, state, len(truth) - 1))(truth[:1])
        found[name] = np.concatenate([truth[:1], np.asarray(frames)[:, 0]])
    return found


def _report(summary: dict[str, Any], say: Callable[[str], None]) -> None:
    say(f"\nmean absolute error over {summary['num_test_runs']} test runs")
    say("method   error    of the seeds")
    for name, values in summary["mae_of_seeds"].items():
        shown = ", ".join(f"{value:.5f}" for value in values)
        say(f"{name:<8} {summary['mae'][name]:.5f}  {shown}")
