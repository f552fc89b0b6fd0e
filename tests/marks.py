"""Which tests and which cases of a law run where.

The default leaves out the ``long`` ones, which the gate runs on the newest Python, and the
``thorough`` ones.
"""

from collections.abc import Iterable

import pytest

long = pytest.mark.long
thorough = pytest.mark.thorough


def few(
    cases: Iterable[object], number: int = 1, rest: pytest.MarkDecorator = thorough
) -> list[object]:
    """All cases of a law; those after the first ``number`` have the mark ``rest``."""
    return [case if place < number else _marked(case, rest) for place, case in enumerate(cases)]


def _marked(case: object, rest: pytest.MarkDecorator) -> object:
    # What has marks of its own (pytest.param) is left out by default anyway.
    return case if getattr(case, "marks", ()) else pytest.param(case, marks=rest)
