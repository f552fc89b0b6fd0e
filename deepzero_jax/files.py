"""Files that are never half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".unfinished"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to; what was written takes the place of ``path`` in one move.

    A reader sees the old file or the new one, never a part. A kill in between leaves a hidden
    ``.<name>.unfinished``, which the next write takes over.
    """
    temporary = path.with_name(f".{path.name}{_UNFINISHED}")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def remove_unfinished(folder: Path) -> None:
    """Removes what a kill has left of files that were to be written into a folder."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        if path.is_file():
            path.unlink(missing_ok=True)
