"""Fields of a dataclass that say what they are: default, meaning and what is allowed.

A section of an experiment record is a frozen dataclass whose fields are made by ``setting``:

  >>> @dataclasses.dataclass(frozen=True)
  ... class Walk:
  ...     '''A walk.'''
  ...     pace: float = setting(1.5, Range(above=0), "m/s")
  ...     mood: Literal["brisk", "slow"] = setting("brisk", meaning="of the walker")
  >>> check_fields(Walk(pace=-1.0))
  Traceback (most recent call last):
  ValueError: pace must be positive, got -1.0
  >>> check_fields(Walk(mood="sad"))
  Traceback (most recent call last):
  ValueError: mood must be 'brisk' or 'slow', got 'sad' (known: brisk, slow)

The types, ranges and choices stand here once, for the check of a record, for its reading from a
command line and for the tests that try every bad value.
"""

import dataclasses
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from deepzero_jax.registry import Registry, nearest

T = TypeVar("T")
# A type as ``typing.get_type_hints`` gives it.
Kind = Any
_SHOWN = 200  # characters of a value that is refused
_LARGE = 100  # a bound above it only keeps nonsense out, and is named when it is passed
# Of float32, in which records compute.
_SMALLEST, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


class Allowed(Protocol):
    """What a value must be, besides of its type."""

    def complaint(self, value: Any) -> str | None:
        """What is wrong, as ``"must be …"``; None for a value that is allowed."""
        ...


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of finite numbers; a bound that is None is none.

    Attributes:
      above: values must be larger.
      at_least: or equal to it.
      below: values must be smaller.
      at_most: or equal to it.
      odd: whether even numbers are refused.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    odd: bool = False

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a number."""
        try:
            finite = math.isfinite(value)
        except OverflowError:  # an integer beyond every float
            finite = not self.holds(value)
        if not finite:
            return "must be finite"
        if not self.holds(value):
            return f"must {self.words(value)}"
        if isinstance(value, float) and 0 < abs(value) < _SMALLEST:
            return f"must be at least {_SMALLEST:.2g} in size, which float32 holds"
        if abs(value) > _LARGEST:
            return f"must be at most {_LARGEST:.2g} in size, which float32 holds"
        if self.odd and value % 2 == 0:
            return "must be odd"
        return None

    def holds(self, value: float) -> bool:
        """Whether a number lies inside."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def words(self, value: float) -> str:
        """What a number outside must be: ``"be positive"``, ``"lie in [0, 1)"``."""
        low = self.above if self.above is not None else self.at_least
        high = self.below if self.below is not None else self.at_most
        if low is not None and high is not None and high < _LARGE:
            left = "(" if self.above is not None else "["
            right = ")" if self.below is not None else "]"
            return f"lie in {left}{low:g}, {high:g}{right}"
        if high is not None and (low is None or value > low):
            return f"be {'below' if self.below is not None else 'at most'} {high:,.12g}"
        if self.above is not None:
            return "be positive" if self.above == 0 else f"be above {self.above:g}"
        return "not be negative" if low == 0 else f"be at least {low:g}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A name of a registry.

    Attributes:
      registry: of the names that are allowed.
    """

    registry: Registry[Any]

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a name; one that is to be imported is imported."""
        try:
            self.registry[value]
        except ValueError as error:
            return f": {error}"
        return None


@dataclasses.dataclass(frozen=True)
class Readable:
    """Text that a function can read.

    Attributes:
      read: of the text; ValueError, ``"must read like …"``, where it cannot.
    """

    read: Callable[[Any], object]

    def complaint(self, value: Any) -> str | None:
        """What the function says."""
        try:
            self.read(value)
        except ValueError as error:
            # A library function names its own argument, which here has another name.
            words = str(error)
            return words[words.find("must") :] if "must" in words else words
        return None


class Setting(NamedTuple):
    """What a field declares besides its default.

    Attributes:
      allowed: what its values must be; of a tuple, each of its elements.
      meaning: in a few words, with the unit.
      local: says where or how often and not what, so that a resumed run may change it.
    """

    allowed: Allowed | None
    meaning: str
    local: bool


def setting(
    default: T, allowed: Allowed | None = None, meaning: str = "", *, local: bool = False
) -> T:
    """A field of a section.

    Args:
      default: of the field; see ``default_of`` for that of a function's argument.
      allowed: as in ``Setting``; a ``Literal`` type needs none.
      meaning: likewise.
      local: likewise.
    """
    return dataclasses.field(
        default=default, metadata={"setting": Setting(allowed, meaning, local)}
    )


def section(kind: type[T], **changes: Any) -> T:
    """A field that is a section itself, some of its fields with other defaults."""
    return dataclasses.field(default_factory=lambda: kind(**changes))


def default_of(function: Callable[..., Any], argument: str) -> Any:
    """The default of a function's argument, so that a field need not repeat it."""
    return inspect.signature(function).parameters[argument].default


class Field(NamedTuple):
    """One field of a dataclass or of a section in it.

    Attributes:
      path: dotted, ``"estimator.smoothing"``.
      kinds: the types that its value may have: of a union, its members.
      setting: what it declares.
    """

    path: str
    kinds: tuple[Kind, ...]
    setting: Setting


def fields_of(schema: type, prefix: str = "") -> Iterator[Field]:
    """The fields of a dataclass that hold values, those of its sections included."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind, path = hints[item.name], f"{prefix}{item.name}"
        if dataclasses.is_dataclass(kind):
            yield from fields_of(typing.cast(type, kind), f"{path}.")
        else:
            declared = item.metadata.get("setting", Setting(None, "", False))
            yield Field(path, members(kind), declared)


def members(kind: Kind) -> tuple[Kind, ...]:
    """The types of a union, or the one type."""
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if union else (kind,)


def value_at(config: Any, path: str) -> Any:
    """The value of a field by its dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def check_fields(config: Any) -> None:
    """Checks every field of a dataclass, those of its sections included.

    Then its own ``check()`` and that of its sections, where they have one, for what fields
    must be to each other.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    _check_sections(config)
    for item in fields_of(type(config)):
        value = value_at(config, item.path)
        complaint = type_complaint(item.kinds, value) or _complaint(item, value)
        if complaint is not None:
            colon = "" if complaint.startswith(":") else " "
            got = "" if "got " in complaint or complaint.startswith(":") else f", got {_cut(value)}"
            raise ValueError(f"{item.path}{colon}{complaint}{got}")
    for part in (*(getattr(config, item.name) for item in dataclasses.fields(config)), config):
        if dataclasses.is_dataclass(part) and hasattr(part, "check"):
            part.check()  # pyright: ignore[reportAttributeAccessIssue]


def _check_sections(config: Any, prefix: str = "") -> None:
    for name, kind in typing.get_type_hints(type(config)).items():
        if dataclasses.is_dataclass(kind):
            part = getattr(config, name)
            if complaint := type_complaint((kind,), part):
                raise ValueError(f"{prefix}{name} {complaint}, got {_cut(part)}")
            _check_sections(part, f"{prefix}{name}.")


def _cut(value: object) -> str:
    """A value as text, of a very long one its beginning."""
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return f"an integer of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _complaint(item: Field, value: Any) -> str | None:
    allowed = item.setting.allowed
    if isinstance(value, tuple):
        complaints = [allowed.complaint(element) for element in value] if allowed else []
        return next(filter(None, complaints), None if value else "must not be empty")
    if isinstance(value, float) and not math.isfinite(value):
        return "must be finite"
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is None or allowed is None or (isinstance(allowed, Range) and not number):
        return None
    return allowed.complaint(value)


def type_complaint(kinds: tuple[Kind, ...], value: Any) -> str | None:
    """What is wrong with the type of a value, or with a choice of a ``Literal``."""
    if any(_is_of(kind, value) for kind in kinds):
        return None
    choices = [c for kind in kinds if typing.get_origin(kind) is Literal for c in kind.__args__]
    if choices and isinstance(value, str):
        number = ["a number"] if float in kinds else []
        words = " or ".join(number + [repr(choice) for choice in choices])
        return f"must be {words}, got {value!r} ({nearest(value, choices)})"
    return f"must be of type {' or '.join(map(type_words, kinds))}"


def _is_of(kind: Kind, value: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in kind.__args__
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(kind.__args__[0], v) for v in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)


def type_words(kind: Kind) -> str:
    """A type in words."""
    if kind is type(None):
        return "none"
    if typing.get_origin(kind) is tuple:
        return f"tuple of {kind.__args__[0].__name__}"
    return " or ".join(kind.__args__) if typing.get_origin(kind) is Literal else kind.__name__
