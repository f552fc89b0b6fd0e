"""JSON on disk that follows what changes, so that a kill of the process loses none of it."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deepzero_jax.training.folder import Json, json_text, write_json

# A write inside one page of the system's memory is whole or not begun, whatever kills a process.
_PAGE = 4096


class LiveJson:
    """A file that holds a JSON object, cheap to bring up to date; safe to use from threads.

    Args:
      path: of the file, which is made by the first write.
      content: what it is to hold; of several threads that write, the last looks last.
    """

    def __init__(self, path: Path, content: Callable[[], Json]) -> None:
        self.path, self._content = path, content
        self._lock = threading.RLock()
        self._descriptor: int | None = None
        self._length = 0

    def save(self) -> None:
        """Writes the file anew, in one move, onto the disk; OSError where that cannot be done."""
        with self._lock:
            self.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self._content())

    def update(self) -> None:
        """Writes into the file, in microseconds; the content outlives the process.

        What the disk refuses waits for ``save``, which says so.
        """
        with self._lock, suppress(OSError):
            text = json_text(self._content()).encode() + b"\n"
            if self._descriptor is None:
                if not self.path.exists():
                    self.save()
                self._length = self.path.stat().st_size
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            if max(len(text), self._length) > _PAGE:
                self.save()
                return
            # Over the rest of a longer text, blanks, which JSON may end with.
            os.pwrite(self._descriptor, text.ljust(self._length), 0)
            self._length = max(self._length, len(text))

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor, self._length = None, 0
