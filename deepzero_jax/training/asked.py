"""The files of a run that say what was asked after its checkpoint, whatever ends a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from deepzero_jax.sharding import agree, is_lead
from deepzero_jax.training.folder import Json, RunFolderError, read_json
from deepzero_jax.training.live import LiveJson
from deepzero_jax.training.progress import Progress
from deepzero_jax.training.together import minus, plus


class Asked:
    """``asked.json``, written by the lead, and beside it ``asked.1.json``, ... by other processes.

    The others write where the run has boxes: what they have asked and the lead was not told.

    Args:
      folder: of the run, which all processes see.
      progress: what the run counts.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._path, self._progress = folder / "asked.json", progress
        index = jax.process_index()
        self._file = (
            LiveJson(self._path, lambda: progress.asked)
            if is_lead()
            else LiveJson(self._path.with_name(f"asked.{index}.json"), lambda: progress.own)
        )
        self._writes = is_lead() or progress.has_boxes

    def load(self, step: int) -> None:
        """Takes over what was asked after the checkpoint of a step; all processes must call it.

        Raises:
          RunFolderError: a file that does not hold it.
        """
        if self._path.exists():
            with _reading(self._path):
                self._progress.load_asked(self._with_others(read_json(self._path)), step)
        if jax.process_count() > 1 and self._progress.has_boxes:
            self._progress.begin_session()  # all have read what was there
            if is_lead():
                self._file.save()
            agree(0.0)
            if not is_lead():  # the file of all holds what was in it
                self._file.save()

    def _with_others(self, asked: Json) -> Json:
        if "session" not in asked:
            return asked
        own = [dict.fromkeys(counts, 0) for counts in asked["told"]]
        for file in self._path.parent.glob("asked.*.json"):
            with _reading(file):
                found = read_json(file)
                if found["session"] == asked["session"]:
                    own = plus(own, found["own"])
        # A disk that was full may have kept one of them from following.
        late = [
            {name: max(count, 0) for name, count in counts.items()}
            for counts in minus(own, asked["told"])
        ]
        samples, *boxes = plus([asked["samples"], *asked["boxes"]], late)
        return {**asked, "samples": samples, "boxes": boxes}

    def update(self) -> None:
        """Writes into the file of this process what has changed; from any thread."""
        if self._writes:
            self._file.update()

    def save(self) -> None:
        """Writes the file of all anew, by the lead."""
        if is_lead():
            self._file.save()

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except RunFolderError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(f"{path} does not hold what was asked; move it away") from error
