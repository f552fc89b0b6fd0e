"""Choices by name: one dictionary for each kind, and the words for a name that is not in it."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, cast

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Words for an error message: the known name nearest to ``name``, or all of them.

    Example:
      >>> nearest("smothing", ["smoothing", "step"])
      "did you mean 'smoothing'?"
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


class Registry(Mapping[str, T]):
    """``{name: entry}`` of one kind of choice.

    Args:
      kind: what is chosen, for messages: ``"estimator"``.
      entries: by name.
      importable: whether a name may also be ``"module:function"``, found by import.

    Example:
      >>> shapes = Registry("shape", {"square": 4, "triangle": 3})
      >>> shapes["square"]
      4
    """

    def __init__(self, kind: str, entries: Mapping[str, T], importable: bool = False) -> None:
        self.kind, self.importable = kind, importable
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        """The entry of a name, imported where it reads ``"module:function"``.

        Raises:
          ValueError: an unknown name; the message lists what there is.
        """
        if name in self._entries:
            return self._entries[name]
        if self.importable and ":" in name:
            return self._imported(name)
        own = '; or your own as "module:function"' if self.importable else ""
        raise ValueError(
            f"unknown {self.kind} {name!r}, {nearest(name, self._entries)}; "
            f"known: {', '.join(self._entries)}{own}"
        )

    def _imported(self, name: str) -> T:
        module_name, _, function = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise ValueError(
                f"{self.kind} {name!r}: cannot import {module_name!r} "
                f"({type(error).__name__}: {error}); it must lie beside the record or be installed"
            ) from error
        found = getattr(module, function, None)
        if not callable(found):
            callables = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
            raise ValueError(
                f"{self.kind} {name!r}: {module_name!r} has no function {function!r}, "
                f"{nearest(function, callables)}"
            )
        return cast(T, found)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self._entries)})"


def present(registry: Registry[T | None], name: str) -> T:
    """An entry of a registry in which some names stand for nothing, None.

    Raises:
      ValueError: an unknown name, or one that stands for nothing.

    Example:
      >>> present(Registry("method", {"sgd": 1, "none": None}), "sgd")
      1
    """
    found = registry[name]
    if found is None:
        something = [known for known, entry in registry.items() if entry is not None]
        raise ValueError(f"{registry.kind} must be one of {something}, got {name!r}")
    return found


def arguments(maker: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a maker, by name."""
    return inspect.signature(maker).parameters


def call_with(maker: Callable[..., T], options: Mapping[str, object]) -> T:
    """Calls a maker with those of the options that it has arguments for.

    Example:
      >>> call_with(lambda width: 2 * width, {"width": 3, "depth": 5})
      6
    """
    taken = arguments(maker)
    return maker(**{name: value for name, value in options.items() if name in taken})
