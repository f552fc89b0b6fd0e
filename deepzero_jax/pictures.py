"""How pictures are drawn: into files, on machines with and without a screen."""

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """Matplotlib's ``pyplot`` on the backend for files; loaded when it is first asked for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, picture: Path) -> None:
    """Writes a figure as PNG in one move, and closes it."""
    temporary = picture.with_name(f".{picture.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    pyplot().close(figure)
    temporary.replace(picture)
