"""Trains a network from forward evaluations.

python train.py --config configs/quickstart.py
"""

import sys
from contextlib import ExitStack

from configs.loading import fail, identity, parse_command_line


def main(arguments: list[str] | None = None) -> int:
    """Reads the configuration, trains or goes on training, reports."""
    options, config = parse_command_line(
        "train.py",
        "Train a network from forward evaluations.",
        arguments,
        plan="print the plan and stop",
    )
    from configs import experiment as experiments
    from configs import run as runs
    from deepzero_jax.training import loop
    from deepzero_jax.training.folder import RunFolder

    with ExitStack() as held:
        try:
            experiments.use_compilation_cache()
            folder = RunFolder(options.workdir, identity(config))
            if folder.summary is not None:
                print(finished(folder.summary, options.workdir, again=True))
                return 0
            experiment = experiments.build(config)
            held.enter_context(folder)
            run = runs.prepare_run(experiment, options.workdir)
            settings = experiments.settings(experiment, options.name, run.queries, options.plan)
        except (ValueError, TypeError, OSError) as error:
            return fail("train.py", error, status=2)
        if not options.plan:
            folder.claim()
        try:
            summary = runs.run_in_memory(experiment, run, options.workdir, settings)
        except loop.InterruptedRunError as interruption:
            print(f"train.py: {interruption}", file=sys.stderr)
            return loop.exit_now(128 + interruption.signum)
        except loop.NonFiniteError as error:
            return fail("train.py", error, status=1)
    if summary is not None:
        print(finished(summary, options.workdir))
    return 0


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
