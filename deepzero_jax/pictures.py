"""How pictures are drawn: into files, on machines with and without a screen."""

from pathlib import Path
from typing import Any

from deepzero_jax.files import written_whole


def pyplot() -> Any:
    """Matplotlib's ``pyplot`` on the backend for files; loaded when it is first asked for."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names of leaves and runs may hold a $
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, picture: Path) -> None:
    """Writes a figure as PNG in one move, and closes it."""
    with written_whole(picture) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot().close(figure)
