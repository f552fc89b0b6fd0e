"""From a command line to a configuration: the file, the overrides, and their errors."""

import argparse
import dataclasses
import importlib.util
import io
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from configs.schema import SCHEMAS, AnyConfig
from deepzero_jax.coordinates import nearest


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is for the person who wrote it."""


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def fail(program: str, error: BaseException, status: int) -> int:
    """Says on one line of stderr what is wrong; returns the exit status."""
    words = " ".join(str(error).split()) or type(error).__name__
    print(f"{program}: error: {words}", file=sys.stderr)
    return status


def parse_command_line(
    program: str,
    description: str,
    arguments: list[str] | None = None,
    more: Callable[[argparse.ArgumentParser], list[str]] | None = None,
    **flags: str,
) -> tuple[argparse.Namespace, Any]:
    """Parses ``--config FILE [--config.section.field=value …] [--workdir DIR]``.

    Args:
      program: its name, which starts every error message.
      description: of the program.
      arguments: in place of those of the process.
      more: adds further arguments to the parser and names them.
      **flags: further boolean flags and their help.

    Returns:
      ``(options, config)``; ``options.workdir`` is a path, ``options.name`` the config's.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file, too, shows how far a run is
    parser = CommandLine(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="a file of configs/")
    parser.add_argument("--workdir", metavar="DIR", help="run folder (default runs/<config name>)")
    for flag, text in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    known = ["--config", "--workdir", "--help", *(f"--{flag}" for flag in flags)]
    if more is not None:
        known += more(parser)
    parser.epilog = "Any field can be given as --config.section.field=value, see configs/schema.py."
    options, rest = parser.parse_known_args(arguments)
    path = Path(options.config)
    try:
        config = load_config(path)
        for name, text in _override_pairs(rest, known):
            config = override(config, name, text)
        check_config(config)
    except ConfigError as error:
        parser.error(str(error))
    options.name = path.stem
    options.workdir = Path(options.workdir) if options.workdir else Path("runs") / path.stem
    return options, config


def load_config(path: Path) -> Any:
    """Runs ``get_config()`` of a Python file: a ``Config`` or ``DefenseConfig``.

    Raises:
      ConfigError: no such file, a file that does not run, or one without a config.
    """
    if not path.is_file():
        beside = sorted(p.as_posix() for p in path.parent.glob("*.py")) if path.parent else []
        hint = f" ({nearest(path.as_posix(), beside)})" if beside else ""
        raise ConfigError(f"no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; configs end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        raise ConfigError(f"{path} is broken: {type(error).__name__}: {error}") from error
    if not isinstance(config, SCHEMAS):
        known = " or ".join(schema.__name__ for schema in SCHEMAS)
        raise ConfigError(
            f"{path}: get_config() must return a {known}, got {type(config).__name__}"
        )
    return config


def _override_pairs(rest: list[str], known: list[str]) -> list[tuple[str, str]]:
    pairs = []
    words = iter(rest)
    for word in words:
        if not word.startswith("--config."):
            raise ConfigError(f"unknown argument {word!r} ({nearest(word, known)})")
        name, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            text = next(words, None)
            if text is None:
                raise ConfigError(f"--config.{name} needs a value")
        pairs.append((name, text))
    return pairs


def override(config: Any, name: str, text: str) -> Any:
    """Returns a config in which the field at a dotted ``name`` has the value written in ``text``.

    Raises:
      ConfigError: no such field (the nearest is named), or text of another type.
    """
    return _override(config, name, text, name, type(config))


def _override(config: Any, name: str, text: str, whole: str, schema: Any) -> Any:
    head, _, tail = name.partition(".")
    hints = typing.get_type_hints(type(config))
    current = getattr(config, head, None)
    if head not in hints or (tail and not dataclasses.is_dataclass(current)):
        near = nearest(whole, [path for path, _ in leaf_fields(schema)])
        raise ConfigError(f"config has no field {whole!r} ({near})")
    if dataclasses.is_dataclass(current):
        if not tail:
            fields = ", ".join(f.name for f in dataclasses.fields(current))
            raise ConfigError(f"{whole!r} is a section; give one of its fields: {fields}")
        return dataclasses.replace(config, **{head: _override(current, tail, text, whole, schema)})
    return dataclasses.replace(config, **{head: _parse(text, hints[head], whole)})


def leaf_fields(schema: Any, prefix: str = "") -> list[tuple[str, dataclasses.Field[Any]]]:
    """Dotted names of all fields of a config class that hold values."""
    found = []
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[item.name]):
            found += leaf_fields(hints[item.name], f"{prefix}{item.name}.")
        else:
            found.append((f"{prefix}{item.name}", item))
    return found


def _parse(text: str, kind: Any, name: str) -> Any:
    kinds = _members(kind)
    for member in kinds:
        try:
            if member is type(None) and text.lower() == "none":
                return None
            if member is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if member in (int, float):
                return member(text)
        except ValueError:
            continue
    if str in kinds:
        return text
    words = {int: "an integer", float: "a number", bool: "true or false", type(None): "none"}
    raise ConfigError(f"{name} must be {' or '.join(words[k] for k in kinds)}, got {text!r}")


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def check_config(config: AnyConfig) -> None:
    """Raises ConfigError unless every value has the type that the schema gives it."""
    for name, _ in leaf_fields(type(config)):
        owner: Any = config
        *sections, last = name.split(".")
        for section in sections:
            owner = getattr(owner, section)
        kinds = _members(typing.get_type_hints(type(owner))[last])
        value = getattr(owner, last)
        accepted = (*kinds, int) if float in kinds else kinds
        wrong_bool = isinstance(value, bool) and bool not in kinds
        if wrong_bool or not isinstance(value, accepted):
            raise ConfigError(f"{name} must be of type {_words(kinds)}, got {value!r}")


def _words(kinds: tuple[Any, ...]) -> str:
    return " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)


def identity(config: AnyConfig) -> dict[str, Any]:
    """The fields that make a run what it is, as JSON can hold them; local ones left out."""
    content = dataclasses.asdict(config)
    for name, item in leaf_fields(type(config)):
        if item.metadata.get("local"):
            owner = content
            *sections, last = name.split(".")
            for section in sections:
                owner = owner[section]
            del owner[last]
    return content
