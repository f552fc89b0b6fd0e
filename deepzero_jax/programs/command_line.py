"""What is typed: ``--config FILE [--config.section.field=value …] [--workdir DIR]`` and flags."""

import argparse
import difflib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from deepzero_jax.fields import fields_of
from deepzero_jax.programs.records import RecordError, check_record, load_record, override
from deepzero_jax.registry import nearest


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def _parser(program: str, description: str) -> CommandLine:
    parser = CommandLine(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="an experiment record")
    parser.add_argument("--workdir", metavar="DIR", help="run folder (default runs/<record name>)")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser.epilog = (
        "Any field can be given as --config.section.field=value; the fields of a record stand in "
        "deepzero_jax/applications/<application>/config.py."
    )
    return parser


def _add_training_flags(parser: CommandLine) -> None:
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    group = parser.add_argument_group(
        "several processes",
        "On Slurm, Kubernetes and Cloud TPU --distributed is enough; elsewhere give all three.",
    )
    group.add_argument("--distributed", action="store_true", help="find the other processes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process_id", type=int, metavar="I", help="which this is, from 0")


def parse_command_line(
    program: str,
    description: str,
    schemas: Iterable[type],
    arguments: Sequence[str] | None = None,
    training: bool = False,
) -> tuple[argparse.Namespace, Any]:
    """Reads a command line and the record that it names.

    Args:
      program: its name, which starts every error message.
      description: of the program.
      schemas: types of which a record may be.
      arguments: in place of those of the process.
      training: whether there are flags for a plan and for several processes.

    Returns:
      ``(options, record)``; ``options.workdir`` is a path, ``options.name`` the record's.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file, too, shows how far a run is
    parser = _parser(program, description)
    if training:
        _add_training_flags(parser)
    options, rest = parser.parse_known_args(arguments)
    path = Path(options.config)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    try:
        record = load_record(path, schemas)
        fields = {item.path for item in fields_of(type(record))}
        for name, text in list(_overrides(rest, flags, fields)):
            record = override(record, name, text)
        check_record(record)
    except RecordError as error:
        parser.error(str(error))
    options.name = path.stem
    options.workdir = Path(options.workdir) if options.workdir else Path("runs") / path.stem
    return options, record


def _overrides(
    rest: Iterable[str], flags: list[str], fields: set[str]
) -> Iterator[tuple[str, str]]:
    words = iter(rest)
    for word in words:
        if not word.startswith("--config."):
            hint = _as_fields(word, fields) or nearest(word, flags)
            raise RecordError(f"unknown argument {word!r} ({hint})")
        name, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            text = next(words, None)
            if text is None:
                raise RecordError(f"--config.{name} needs a value")
        yield name, text


def _as_fields(word: str, fields: set[str]) -> str | None:
    """How to give the fields that a word like ``training.num_epochs=2`` may mean."""
    name, equals, text = word.lstrip("-+").removeprefix("config.").partition("=")
    end = f".{name}".replace("_", ".")  # "epochs" may mean "training.num_epochs"
    meant = sorted(path for path in fields if f".{path}".replace("_", ".").endswith(end))
    if not meant and "." in name:
        meant = difflib.get_close_matches(name, sorted(fields), n=1, cutoff=0.6)
    if not meant:
        return None
    given = [repr(f"--config.{path}={text if equals else '…'}") for path in meant]
    return f"did you mean {' or '.join(given)}?"
