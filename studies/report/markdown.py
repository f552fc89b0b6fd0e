"""Lines of a Markdown table."""

from collections.abc import Iterable


def row(first: object, cells: Iterable[object]) -> str:
    """``"| first | a | b |"``."""
    texts = [str(cell) for cell in (first, *cells)]
    return "|".join(["", *(f" {text} " if text else " " for text in texts), ""])


def head(first: object, columns: Iterable[object]) -> list[str]:
    """The two lines above the rows of a table."""
    columns = list(columns)
    return [row(first, columns), "|---" * (len(columns) + 1) + "|"]
