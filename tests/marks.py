"""Which cases of a law the default tests run."""

from collections.abc import Iterable

import pytest

thorough = pytest.mark.thorough


def few(cases: Iterable[object], number: int = 1) -> list[object]:
    """All cases of a law; those after the first ``number`` are left to the thorough tests."""
    return [case if place < number else _marked(case) for place, case in enumerate(cases)]


def _marked(case: object) -> object:
    # What has marks of its own (pytest.param) is left out by default anyway.
    return case if getattr(case, "marks", ()) else pytest.param(case, marks=thorough)
