"""The run folder: who may write to it, and files that are never half written."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any


class RunFolderError(ValueError):
    """The run folder cannot be used for this run; nothing in it was changed."""


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in one move: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")
    with temporary.open() as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Reads JSON; RunFolderError, naming the file, when it is damaged."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is not valid JSON ({error}); move it away") from error


class RunFolder:
    """A folder that belongs to one configuration and to one process at a time.

    Making it reads only; used as a context manager it creates and locks the folder.

    Args:
      path: of the folder, which need not exist.
      config: what identifies the run, as JSON can hold it. ``claim`` writes it, a later
        run must bring the same.

    Raises:
      RunFolderError: of another configuration, naming the fields that differ; on
        entering, not writable or in use by another process.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = Path(path)
        self._config = config
        self._lock: Any = None
        config_file = self.path / "config.json"
        if not config_file.exists():
            return
        differing = differences(read_json(config_file), json.loads(json.dumps(config)))
        if differing:
            raise RunFolderError(
                f"{self.path} holds a run of another config: {'; '.join(differing)}. "
                "Choose another folder with --workdir, or give the run's own values"
            )

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, None while it is unfinished."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else None

    def __enter__(self) -> "RunFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise RunFolderError(
                f"cannot write to the run folder {self.path} ({error.strerror}); "
                "choose another with --workdir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunFolderError(
                f"another process is working in {self.path}; wait for it or choose another "
                "folder with --workdir"
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    def claim(self) -> None:
        """Writes the configuration: from now on the folder is this run's."""
        write_json(self.path / "config.json", self._config)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Describes where two JSON values differ, as ``"estimator.smoothing is 0.1, not 0.2"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{prefix}.{name}" if prefix else str(name)
            found += differences(old.get(name), new.get(name), path)
        return found
    return [] if old == new else [f"{prefix} is {json.dumps(old)} there, {json.dumps(new)} here"]
