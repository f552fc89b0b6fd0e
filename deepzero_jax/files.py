"""Files that are never half written, and archives of arrays whose damage is told."""

import errno
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

_UNFINISHED = ".unfinished"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to; what was written takes the place of ``path`` in one move.

    A reader sees the old file or the new one, never a part. A kill in between leaves a hidden
    ``.<name>.unfinished``, which the next write takes over; an error leaves nothing.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{_UNFINISHED}")


def check_writable(path: Path) -> None:
    """Raises OSError unless ``written_whole`` can be expected to write a file; it stays as it is.

    For who would pay for what is to stand in it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = _temporary(path)
    temporary.open("ab").close()
    temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Removes what a kill has left of files that were to be written into a folder."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        if path.is_file():
            path.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray | str]) -> None:
    """Writes an ``.npz`` archive as ``written_whole`` does, under any names.

    ``np.savez`` takes them for arguments, and has some of its own (``file``).
    """
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` archive; ValueError, a line, where its checksums or it fail."""
    try:
        with path.open("rb") as raw:
            file = np.load(raw)
            if isinstance(file, np.ndarray):
                raise ValueError("a single array and no archive")
            with file:
                return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()
        raise ValueError(reason[0] if reason else type(error).__name__) from error
