"""Trains a network from forward evaluations.

python train.py --config configs/quickstart.py
"""

import argparse
import os
import sys
from contextlib import ExitStack
from typing import Any

from configs import distributed
from configs.loading import fail, identity, parse_command_line
from configs.schema import DefenseConfig, SolverConfig
from deepzero_jax.platform import keep_freed_memory


def main(arguments: list[str] | None = None) -> int:
    """Reads the configuration, trains or goes on training, reports."""
    options, config = parse_command_line(
        "train.py",
        "Train a network from forward evaluations.",
        arguments,
        distributed.add_flags,
        plan="print the plan and stop",
    )
    keep_freed_memory()
    if isinstance(config, DefenseConfig | SolverConfig):
        return train_application(options, config)
    from configs import experiment as experiments
    from configs import run as runs
    from deepzero_jax.sharding import agree, is_lead
    from deepzero_jax.training import errors, signals
    from deepzero_jax.training.folder import RunFolder
    from deepzero_jax.training.peers import PeerWatch

    with ExitStack() as held:
        try:
            distributed.join(options)
            say = print if is_lead() else lambda line: None
            experiments.use_compilation_cache()
            distributed.check_same(identity(config))
            folder = RunFolder(options.workdir, identity(config))
            if agree(folder.summary is not None):
                say(finished(folder.summary or {}, options.workdir, again=True))
                return 0
            watch = held.enter_context(PeerWatch(options.workdir, lose))
            experiment = experiments.build(config)
            if is_lead():
                held.enter_context(folder)
            run = runs.prepare_run(experiment, options.workdir, say)
            settings = experiments.settings(experiment, options.name, run.queries, options.plan)
        except (ValueError, TypeError, OSError) as error:
            return fail("train.py", error, status=2)
        if is_lead() and not options.plan:
            folder.claim()
        try:
            summary = runs.run_in_memory(experiment, run, options.workdir, settings, say)
        except errors.InterruptedRunError as interruption:
            print(f"train.py: {interruption}", file=sys.stderr)
            watch.say_goodbye()
            return signals.exit_now(128 + interruption.signum)
        except (errors.NonFiniteError, errors.StepFailedError) as error:
            return fail("train.py", error, status=1)
        except (RuntimeError, ValueError) as error:
            # A collective fails at once when a process is gone; the watch soon knows which.
            if not watch.is_about_peers(error):
                raise
            watch.wait()
            raise
        watch.finish()
    if summary is not None:
        say(finished(summary, options.workdir))
    return 0


def train_application(options: argparse.Namespace, config: DefenseConfig | SolverConfig) -> int:
    """The same for a comparison of methods, in which every method is a run of its own."""
    import jax

    from configs import defense, solver
    from configs.experiment import use_compilation_cache
    from deepzero_jax.training import errors, signals
    from deepzero_jax.training.folder import RunFolder

    with ExitStack() as held:
        try:
            if options.plan or options.distributed or options.coordinator:
                raise ValueError(
                    f"--plan and several processes are not for a {type(config).__name__}"
                )
            use_compilation_cache()
            folder = RunFolder(options.workdir, identity(config))
            if folder.summary is not None:
                print(f"already finished: see {options.workdir}/summary.json")
                return 0
            programs: dict[type, Any] = {
                DefenseConfig: (defense.check_fields, defense.train_defenses),
                SolverConfig: (solver.check_fields, solver.train_corrections),
            }
            check_fields, train_methods = programs[type(config)]
            check_fields(config)
            held.enter_context(folder)
            folder.claim()
            train_methods(config, options.workdir)
        except errors.InterruptedRunError as interruption:
            print(f"train.py: {interruption}", file=sys.stderr)
            return signals.exit_now(128 + interruption.signum)
        except (errors.NonFiniteError, errors.StepFailedError) as error:
            return fail("train.py", error, status=1)
        except (ValueError, TypeError, OSError, ImportError, jax.errors.JaxRuntimeError) as error:
            # What a failed callback raises depends on where its result is first looked at.
            reason = errors.black_box_failure(error)
            if reason is not None:
                words = f"{reason}. What is done is kept; the same command goes on from there"
                return fail("train.py", RuntimeError(words), status=1)
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise
            return fail("train.py", error, status=2)
    print(f"finished: see {options.workdir}/summary.json and its pictures")
    return 0


def lose(message: str) -> None:
    """Ends this process because another one is gone."""
    print(f"train.py: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def finished(summary: dict, workdir: object, again: bool = False) -> str:
    """The last line of a run, or all that is said when it is already finished."""
    start = "already finished" if again else "finished"
    return (
        f"{start}: test accuracy {100 * summary['test_accuracy']:.2f} %, "
        f"{summary['num_queries']:,} queries, {summary['num_steps']:,} steps, "
        f"{summary['wall_seconds']:.0f} s; see {workdir}"
    )


if __name__ == "__main__":
    sys.exit(main())
