"""What trains a record, from the command line to the exit status."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from deepzero_jax.platform import prepare_program
from deepzero_jax.programs.caches import use_compilation_cache
from deepzero_jax.programs.command_line import parse_command_line
from deepzero_jax.programs.exits import report_failure
from deepzero_jax.programs.records import identity, run_folder
from deepzero_jax.programs.warnings import warnings_in
from deepzero_jax.sharding import agree, is_lead
from deepzero_jax.training import (
    InterruptedRunError,
    Json,
    RunFolder,
    RunFolderError,
    exit_now,
    leave_at_once,
    processes,
)
from deepzero_jax.types import Log


@dataclass
class Run:
    """What the command line asks for, and the run folder.

    Attributes:
      folder: of the run; nothing is written to it before ``hold``.
      name: of the record.
      plan_only: print the plan and stop.
      log: takes a line for the person who watches.
      claimed: whether the folder is this run's.
    """

    folder: RunFolder
    name: str
    plan_only: bool = False
    log: Log = print
    _held: ExitStack = field(default_factory=ExitStack)
    claimed: bool = False

    @property
    def workdir(self) -> Path:
        """Path of the run folder."""
        return self.folder.path

    def hold(self) -> None:
        """Makes the folder, and keeps other processes from working in it."""
        if is_lead():
            self._held.enter_context(self.folder)

    def claim(self) -> None:
        """Writes the record into the folder: from now on it is this run's."""
        if is_lead():
            self.folder.claim()
        self.claimed = True


@contextmanager
def run_of(record: object, workdir: Path, log: Log = print) -> Iterator[Run]:
    """A run without a command line; what it holds is given up at the end.

    Raises:
      RunFolderError: the folder is of another record.
    """
    with ExitStack() as held:
        folder = run_folder(record, workdir)
        yield Run(folder, folder.path.name, log=log, _held=held)


@dataclass(frozen=True)
class Program:
    """How records of one type are run.

    Attributes:
      train: ``(record, run) -> summary`` trains or goes on training; None after a plan.
      describe: ``(summary) -> str``, the result in a few words.
      prune: ``(record, run) -> str`` computes layer ratios; the last line. None: there are
        none to compute.
      has_plan: whether it can print a plan, and run as several processes.
    """

    train: Callable[[Any, Run], Json | None]
    describe: Callable[[Json], str]
    prune: Callable[[Any, Run], str] | None = None
    has_plan: bool = False


# By type of the record: the module that holds its ``PROGRAM``.
Programs = Mapping[type, str]


def _program(programs: Programs, record: object) -> Program:
    return import_module(programs[type(record)]).PROGRAM


def train(programs: Programs, arguments: Sequence[str] | None, name: str) -> int:
    """Trains a record, or goes on training it.

    Args:
      programs: for each type of record.
      arguments: in place of those of the process.
      name: of the program, which starts every error message.

    Returns:
      The exit status: 0, or as ``exit_status`` says.
    """
    if arguments is None:
        leave_at_once(name)
    prepare_program()
    options, record = parse_command_line(
        name, "Train a network from forward evaluations.", programs, arguments, training=True
    )
    with ExitStack() as held:
        watch, run = None, None
        try:
            program = _program(programs, record)
            if not program.has_plan:
                _refuse_plan(options, record)
            processes.join(
                options.coordinator,
                options.num_processes,
                options.process_id,
                options.distributed,
            )
            log = print if is_lead() else lambda line: None
            held.enter_context(warnings_in(log))
            use_compilation_cache()
            processes.check_same(identity(record))
            folder = run_folder(record, options.workdir)
            if agree(folder.summary is not None):
                log(f"already finished: {_described(program, folder)}")
                return 0
            abort = lambda message: _abort(name, message)
            watch = held.enter_context(processes.PeerWatch(options.workdir, abort))
            run = Run(folder, options.name, options.plan, log, held)
            summary = program.train(record, run)
            if summary is not None:
                log(f"finished: {program.describe(summary)}; see {options.workdir}")
        except (Exception, KeyboardInterrupt) as error:
            # A collective fails at once when a process is gone; the watch soon knows which.
            if watch is not None and watch.is_about_peers(error):
                watch.wait()
                raise
            started = run is not None and run.claimed
            status = report_failure(name, error, options.debug, started)
            if isinstance(error, InterruptedRunError) or (started and arguments is None):
                # At exit others would write to what could not be written, and say so again.
                if watch is not None:
                    watch.say_goodbye()
                exit_now(status)
            return status
        watch.finish()
    return 0


def prune(programs: Programs, arguments: Sequence[str] | None, name: str) -> int:
    """Computes the layer-wise pruning ratios of a record; arguments and status as of ``train``."""
    if arguments is None:
        leave_at_once(name)
    prepare_program()
    description = "Compute the layer-wise pruning ratios of a network."
    options, record = parse_command_line(name, description, programs, arguments)
    try:
        program = _program(programs, record)
        if program.prune is None:
            raise ValueError(f"{options.config} prunes nothing: it is a {type(record).__name__}")
        use_compilation_cache()
        folder = run_folder(record, options.workdir)
        with ExitStack() as held:
            held.enter_context(warnings_in(print))
            print(program.prune(record, Run(folder, options.name, _held=held)))
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(name, error, options.debug)
    return 0


def _described(program: Program, folder: RunFolder) -> str:
    try:
        return f"{program.describe(folder.summary or {})}; see {folder.path}"
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise RunFolderError(
            f"{folder.path / 'summary.json'} is not a summary; move it away"
        ) from error


def _refuse_plan(options: argparse.Namespace, record: object) -> None:
    if options.plan or options.distributed or options.coordinator:
        raise ValueError(f"--plan and several processes are not for a {type(record).__name__}")


def _abort(name: str, message: str) -> None:
    """Ends this process because another one is gone."""
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    os._exit(1)
