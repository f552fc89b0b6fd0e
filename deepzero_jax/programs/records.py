"""Experiment records: the file, overrides of its fields, checks, and what identifies a run."""

import dataclasses
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deepzero_jax.fields import Kind, check_fields, fields_of, value_at
from deepzero_jax.registry import nearest
from deepzero_jax.training import Json, RunFolder

C = TypeVar("C")


class RecordError(ValueError):
    """A record that cannot be used; the message is for the person who wrote it."""


def load_record(path: Path, schemas: Iterable[type]) -> Any:
    """Runs ``get_config()`` of a Python file.

    The folder of the file can be imported from, then and later: a model or a data set may
    lie beside the record.

    Args:
      path: of the file.
      schemas: types of which a record may be.

    Raises:
      RecordError: no such file, a file that does not run, or one without a record.
    """
    if not path.is_file():
        beside = sorted(p.as_posix() for p in path.parent.glob("*.py"))
        hint = f" ({nearest(path.as_posix(), beside)})" if beside else ""
        raise RecordError(f"no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"record_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecordError(f"{path} is not a Python file; configs end in .py")
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        record = module.get_config()
    except BaseException as error:  # a file that exits is broken too
        words = f"{type(error).__name__}: {error}"
        raise RecordError(f"{path} is broken: {words[:500]}") from error
    schemas = tuple(schemas)
    if not isinstance(record, schemas):
        known = " or ".join(schema.__name__ for schema in schemas)
        raise RecordError(
            f"{path}: get_config() must return a {known}, got {type(record).__name__}"
        )
    return record


def check_record(record: object) -> None:
    """Checks every field of a record; raises RecordError for the first that is wrong."""
    try:
        check_fields(record)
    except (ValueError, TypeError) as error:
        raise RecordError(str(error)) from error


def override(record: C, name: str, text: str) -> C:
    """A record in which the field at a dotted ``name`` has the value written in ``text``.

    Raises:
      RecordError: no such field (the nearest is named), or text of another type.
    """
    known = {item.path: item for item in fields_of(type(record))}
    if name not in known:
        inside = [path.removeprefix(f"{name}.") for path in known if path.startswith(f"{name}.")]
        if inside:
            raise RecordError(f"{name!r} is a section; give one of its fields: {', '.join(inside)}")
        raise RecordError(f"config has no field {name!r} ({nearest(name, known)})")
    return _replaced(record, name, _parsed(text, known[name].kinds, name))


def _replaced(section: Any, name: str, value: object) -> Any:
    head, _, tail = name.partition(".")
    inner = _replaced(getattr(section, head), tail, value) if tail else value
    return dataclasses.replace(section, **{head: inner})


def _parsed(text: str, kinds: tuple[Kind, ...], name: str) -> object:
    for kind in kinds:
        if kind is type(None) and text.lower() == "none":
            return None
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        if get_origin(kind) is tuple:
            return _parsed_list(text, get_args(kind)[0], name)
    if any(kind is str or get_origin(kind) is not None for kind in kinds):
        return text
    words = {int: "an integer", float: "a number", bool: "true or false", type(None): "none"}
    raise RecordError(f"{name} must be {' or '.join(words[k] for k in kinds)}, got {text!r}")


def _parsed_list(text: str, kind: type, name: str) -> tuple[object, ...]:
    parts = [part.strip() for part in text.split(",")]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError as error:
        example = "0, 0.25" if kind is float else "1, 2"
        raise RecordError(f'{name} must read like "{example}", got {text!r}') from error


def identity(record: object) -> Json:
    """The fields that make a run what it is, as JSON can hold them; local ones left out."""
    content: Json = {}
    for item in fields_of(type(record)):
        if item.setting.local:
            continue
        *sections, last = item.path.split(".")
        owner = content
        for section in sections:
            owner = owner.setdefault(section, {})
        value = value_at(record, item.path)
        owner[last] = list(value) if isinstance(value, tuple) else value
    return content


def run_folder(record: object, workdir: Path) -> RunFolder:
    """The folder of a record's run.

    Raises:
      RunFolderError: it is another's.
    """
    return RunFolder(workdir, identity(record), _defaults(type(record)))


def _defaults(schema: type) -> Json:
    """The fields of a record where nothing is said of them; those without a default left out."""
    kinds, found = get_type_hints(schema), {}
    for item in dataclasses.fields(schema):
        if item.default_factory is not dataclasses.MISSING:
            found[item.name] = identity(item.default_factory())
        elif dataclasses.is_dataclass(kinds[item.name]):
            found[item.name] = _defaults(kinds[item.name])
        elif item.default is not dataclasses.MISSING:
            found[item.name] = item.default
    return found
