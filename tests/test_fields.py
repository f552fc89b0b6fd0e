"""Fields of a dataclass that say what they are, and names that are looked up."""

import dataclasses
from typing import Literal

import numpy as np
import pytest

from deepzero_jax.fields import (
    OneOf,
    Range,
    Readable,
    check_fields,
    default_of,
    fields_of,
    section,
    setting,
)
from deepzero_jax.registry import Registry, call_with, nearest

SHAPES = Registry("shape", {"square": 4, "triangle": 3}, importable=True)


def read_even(text):
    if int(text) % 2:
        raise ValueError(f"must read like an even number, got {text!r}")


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, Range(at_least=0, below=1), "a rate")
    count: int | None = setting(None, Range(at_least=1, below=2**31))
    kernel: int = setting(3, Range(at_least=1, at_most=99, odd=True))
    kind: Literal["a", "b"] = setting("a")
    shape: str = setting("square", OneOf(SHAPES))
    radii: tuple[float, ...] = setting((0.0, 1.0), Range(at_least=0))
    text: str = setting("4", Readable(read_even))
    flag: bool = setting(False, local=True)

    def check(self):
        if self.flag and self.kind == "b":
            raise ValueError("flag and kind=b do not go together")


@dataclasses.dataclass(frozen=True)
class Outer:
    seed: int = setting(0, Range(at_least=0))
    inner: Inner = section(Inner, rate=0.25)


def outer(**changes):
    return Outer(inner=Inner(**changes))


def test_fields_are_found_with_their_sections():
    found = {item.path: item for item in fields_of(Outer)}
    assert list(found)[:3] == ["seed", "inner.rate", "inner.count"]
    assert found["inner.count"].kinds == (int, type(None))
    assert found["inner.flag"].setting.local
    assert found["inner.rate"].setting.meaning == "a rate"
    assert Outer().inner.rate == 0.25
    check_fields(Outer())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 1.0}, r"inner.rate must lie in \[0, 1\), got 1.0"),
        ({"rate": float("nan")}, "inner.rate must be finite"),
        ({"rate": "x"}, "inner.rate must be of type float, got 'x'"),
        ({"rate": True}, "inner.rate must be of type float, got True"),
        ({"count": 0}, "inner.count must be at least 1, got 0"),
        ({"count": 2**31}, "inner.count must be below 2147483648|2,147,483,648"),
        ({"count": 1.5}, "inner.count must be of type int or none"),
        ({"kernel": 4}, "inner.kernel must be odd, got 4"),
        ({"kind": "c"}, "inner.kind must be 'a' or 'b', got 'c'"),
        ({"shape": "squar"}, "inner.shape: unknown shape 'squar', did you mean 'square'"),
        ({"radii": (0.0, -1.0)}, "inner.radii must not be negative"),
        ({"radii": ()}, "inner.radii must not be empty"),
        ({"radii": (float("inf"),)}, "inner.radii must be finite"),
        (
            {"radii": (3.5e38,)},
            r"inner.radii must be at most 3.4e\+38 in size, which float32 holds",
        ),
        ({"radii": (10**39,)}, "inner.radii must be at most"),
        ({"radii": 0.5}, "inner.radii must be of type tuple of float"),
        ({"text": "3"}, "inner.text must read like an even number, got '3'"),
        ({"flag": True, "kind": "b"}, "flag and kind=b do not go together"),
    ],
)
def test_every_kind_of_bad_value_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        check_fields(outer(**changes))


def test_none_and_whole_numbers_are_fine_where_they_are_meant():
    check_fields(outer(count=None, rate=0))


@pytest.mark.parametrize(
    ("allowed", "bad", "words"),
    [
        (Range(above=0), 0, "be positive"),
        (Range(above=2), 0, "be above 2"),
        (Range(at_least=0), -1, "not be negative"),
        (Range(at_least=3), 1, "be at least 3"),
        (Range(below=1), 1, "be below 1"),
        (Range(at_most=1), 2, "be at most 1"),
        (Range(above=0, at_most=1), 0, "lie in (0, 1]"),
        (Range(at_least=1, at_most=10_000), 20_000, "be at most 10,000"),
        (Range(at_least=1, at_most=10_000), 0, "be at least 1"),
    ],
)
def test_intervals_in_words(allowed, bad, words):
    assert allowed.complaint(bad) == f"must {words}"


def test_defaults_are_those_of_the_function():
    assert default_of(lambda a, b=3: a, "b") == 3


def test_a_registry_lists_what_it_has_and_imports_what_is_named():
    assert (SHAPES["square"], list(SHAPES), len(SHAPES)) == (4, ["square", "triangle"], 2)
    assert SHAPES["math:sqrt"](4) == 2
    for name, words in {
        "circle": "known: square, triangle; or your own",
        "math:sqroot": "has no function 'sqroot', did you mean 'sqrt'",
        "mathe:sqrt": "cannot import 'mathe'",
    }.items():
        with pytest.raises(ValueError, match=words):
            SHAPES[name]
    with pytest.raises(ValueError, match="unknown shape 'math:sqrt'"):
        Registry("shape", {"square": 4})["math:sqrt"]
    assert repr(SHAPES) == "Registry('shape': square, triangle)"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert call_with(np.full, {"shape": 2, "fill_value": 1.0, "width": 5}).tolist() == [1, 1]
