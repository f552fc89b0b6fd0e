"""The run folder: whose it is, and who may write to it."""

import fcntl
import json
import math
from pathlib import Path
from typing import IO, Any

from deepzero_jax.files import remove_unfinished, written_whole

# What JSON holds at its top: names and values.
Json = dict[str, Any]
# Of the files in a run folder. It rises when a folder of before could not be gone on with; not
# with a new field whose default is what was done before.
FORMAT = 2
# What only a run writes, and after its config.json.
_OF_A_RUN = ("summary.json", "metrics.jsonl", "checkpoints")


class RunFolderError(ValueError):
    """The run folder cannot be used for this run; nothing in it was changed."""


def write_text(path: Path, text: str) -> None:
    """Writes a file in one move, see ``written_whole``."""
    with written_whole(path) as temporary:
        temporary.write_text(text)


def json_text(content: object, indent: int | None = None) -> str:
    """Content as JSON, with null in place of numbers that are not finite: JSON has none.

    Example:
      >>> json_text({"loss": float("nan"), "errors": [1.5, float("inf")]})
      '{"loss": null, "errors": [1.5, null]}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: object) -> None:
    """Writes JSON as ``write_text`` does, see ``json_text``."""
    write_text(path, json_text(content, indent=2) + "\n")


def read_json(path: Path) -> Json:
    """Reads a JSON object; RunFolderError, naming the file, when it is none or cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror}); move it away") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise RunFolderError(f"{path} is not valid JSON ({reason}); move it away") from error
    if not isinstance(content, dict):
        raise RunFolderError(
            f"{path} must hold a JSON object, got a {type(content).__name__}; move it away"
        )
    return content


def free_name(path: Path) -> Path:
    """The path, or one with a number behind its name where that is taken."""
    found, number = path, 1
    while found.exists():
        found, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    return found


class RunFolder:
    """A folder that belongs to one configuration and to one process at a time.

    Making it reads only; used as a context manager it creates and locks the folder.

    Args:
      path: of the folder, which need not exist.
      config: what identifies the run, as JSON can hold it. ``claim`` writes it, a later
        run must bring the same.
      defaults: what a field of it is where a folder, older than the field, does not say.

    Raises:
      RunFolderError: of another configuration, naming the fields that differ, or of a run
        that nobody knows; on entering, not writable, in use by another process, or finished
        by one in the meantime.
    """

    def __init__(self, path: Path, config: Json, defaults: Json | None = None) -> None:
        self.path, self._defaults = Path(path), defaults or {}
        self._config: Json = {"format": FORMAT, **config}
        self._lock: IO[str] | None = None
        self._check()
        self._was_finished = self._summary_file.exists()

    def _check(self) -> bool:
        """Whether it is this run's; RunFolderError where it is another's."""
        config_file = self.path / "config.json"
        if not config_file.exists():
            for name in _OF_A_RUN:
                if (self.path / name).exists():
                    raise RunFolderError(
                        f"{self.path} holds {name} and no config.json that says of which run; "
                        "choose another folder, or move it away"
                    )
            return False
        found = read_json(config_file)
        if (written := found.get("format", 1)) != FORMAT:
            raise RunFolderError(
                f"{self.path} was written by another version of deepzero_jax (format {written}, "
                f"this one has {FORMAT}): go on there with that version, or choose another folder"
            )
        own = json.loads(json_text(self._config))
        differing = differences(_finite(_filled_up(found, own, self._defaults)), own)
        if differing:
            raise RunFolderError(
                f"{self.path} holds a run of another config: {'; '.join(differing)}. "
                "Choose another folder, or give the run's own values"
            )
        return True

    @property
    def _summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def summary(self) -> Json | None:
        """The summary of a finished run, None while it is unfinished."""
        return read_json(self._summary_file) if self._summary_file.exists() else None

    def __enter__(self) -> "RunFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise RunFolderError(
                f"cannot write to the run folder {self.path} ({error.strerror}); choose another"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise RunFolderError(
                f"another process is working in {self.path}; wait for it or choose another folder"
            ) from error
        try:
            self._take_over()
        except BaseException:
            lock.close()
            raise
        return self

    def _take_over(self) -> None:
        """Looks again, as another process may have worked here before the lock was had."""
        if not self._check():
            return
        if self._summary_file.exists() and not self._was_finished:
            raise RunFolderError(
                f"another process has finished the run in {self.path}; the same command tells what "
                "came out"
            )
        stages = [f for f in self.path.iterdir() if f.is_dir() and not (f / "config.json").exists()]
        for folder in (self.path, *stages):
            remove_unfinished(folder)

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def claim(self) -> None:
        """Writes the configuration: from now on the folder is this run's."""
        write_json(self.path / "config.json", self._config)


def _filled_up(found: Json, own: Json, defaults: Json) -> Json:
    """With the defaults of those fields of one's own that it does not have."""
    filled = dict(found)
    for name, value in own.items():
        if isinstance(value, dict) and isinstance(found.get(name, {}), dict):
            filled[name] = _filled_up(found.get(name, {}), value, defaults.get(name, {}))
        elif name not in found and name in defaults:
            filled[name] = json.loads(json_text(defaults[name]))
    return filled


def differences(old: object, new: object, prefix: str = "") -> list[str]:
    """Describes where two JSON values differ, as ``"estimator.smoothing is 0.1, not 0.2"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{prefix}.{name}" if prefix else str(name)
            found += differences(old.get(name), new.get(name), path)
        return found
    return [] if old == new else [f"{prefix} is {json.dumps(old)} there, {json.dumps(new)} here"]
