"""Checkpoints that survive a kill: written by orbax, verified by digest when read."""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.training.folder import Json, RunFolderError, free_name
from deepzero_jax.types import Log, PyTree

if TYPE_CHECKING:
    import orbax.checkpoint as ocp


def tree_digest(tree: PyTree) -> str:
    """SHA-256 over the bytes, shapes and dtypes of a pytree's leaves."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(_raw(tree)):
        array = np.asarray(leaf)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def _raw(tree: PyTree) -> PyTree:
    """A tree with the raw data of its random keys, which files can hold."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _stored(tree: PyTree) -> PyTree:
    """A raw tree on the host as files hold it: orbax takes no empty array, so one number stands in.

    A digest is over this.
    """

    def one(leaf: Any) -> Any:
        return leaf if np.size(leaf) else np.zeros(1, leaf.dtype)

    return jax.tree.map(one, jax.device_get(_raw(tree)))


def _like(tree: PyTree, stored: PyTree) -> PyTree:
    """A ``stored`` tree with the random keys and the empty leaves of a tree like it."""

    def one(leaf: Any, found: Any) -> jax.Array:
        array = jax.numpy.asarray(found if np.size(leaf) else _raw(leaf))
        if not _is_key(leaf):
            return array
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))

    return jax.tree.map(one, tree, stored)


def _with_empty_leaves(stored: PyTree, leaves: Mapping[str, str]) -> PyTree:
    """A ``stored`` tree with the empty leaves that were saved, see ``_leaves``."""

    def one(path: str, found: Any) -> Any:
        told = leaves[path]
        shape = json.loads(told[told.index("[") :])
        return found if np.prod(shape) else np.zeros(shape, found.dtype)

    found, structure = jax.tree.flatten(stored)
    return structure.unflatten(map(one, leaf_paths(stored), found))


def _by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, in order; a path says nothing of the kinds of containers."""
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))


def _leaves(tree: PyTree) -> dict[str, str]:
    """Shape and dtype of each leaf, by its path."""
    shapes = _by_path(jax.eval_shape(lambda: tree))
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in shapes.items()}


def _first_difference(saved: Mapping[str, str], like: Mapping[str, str]) -> str | None:
    """Of two states' leaves, in words; None if there is none."""
    for path in [*like, *saved]:
        if saved.get(path) != like.get(path):
            return f"{path} is {saved.get(path, 'not')} there and {like.get(path, 'not')} here"
    return None


def _digest(state: PyTree, progress: Json) -> str:
    """Of all that a checkpoint holds, so that what was edited counts as damaged."""
    text = json.dumps(progress, sort_keys=True)
    return hashlib.sha256(f"{tree_digest(state)} {text}".encode()).hexdigest()


def _first_line(error: Exception, length: int = 200) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:length]


def _speak_alone() -> None:
    """Leaves it to this module to say what is damaged or could not be written.

    Orbax logs it besides, from threads of its own; and reads that were under way when the
    first one failed find their event loop closed, each with a traceback, later.
    """
    if not isinstance(sys.unraisablehook, _LateReads):
        sys.unraisablehook = _LateReads(sys.unraisablehook)
        logging.getLogger("absl").addFilter(_is_not_of_orbax)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


class _LateReads:
    """An ``unraisablehook`` that hands on all but reads which outlived their event loop."""

    def __init__(self, before: Callable[["sys.UnraisableHookArgs"], object]) -> None:
        self._before = before

    def __call__(self, unraisable: "sys.UnraisableHookArgs", /) -> None:
        closed = isinstance(unraisable.exc_value, RuntimeError) and (
            "Event loop is closed" in str(unraisable.exc_value)
        )
        if not closed:
            self._before(unraisable)


def load_newest(folder: Path) -> Json:
    """The newest state in a folder of checkpoints, verified; nothing there is changed.

    For who does not know its structure: NumPy arrays in dictionaries and lists, where it held
    tuples and records.

    Raises:
      RunFolderError: no checkpoint, or one that is damaged.
    """
    import orbax.checkpoint as ocp

    _speak_alone()
    options = ocp.CheckpointManagerOptions(create=False, read_only=True)
    step = None
    try:
        with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
            if (step := manager.latest_step()) is None:
                raise RunFolderError(f"{folder} holds no checkpoint")
            parts = ocp.args.Composite(
                state=ocp.args.StandardRestore(),  # pyright: ignore[reportCallIssue]
                progress=ocp.args.JsonRestore(),  # pyright: ignore[reportCallIssue]
            )
            found = manager.restore(step, args=parts)
        progress, state = dict(found["progress"]), found["state"]
        digest, leaves = progress.pop("digest"), _by_path(state)
        if digest != _digest([leaves[path] for path in progress["leaves"]], progress):
            raise ValueError("its digest does not match its content")
        state = _with_empty_leaves(state, progress["leaves"])
    except RunFolderError:
        raise
    except Exception as error:  # orbax raises many kinds for a damaged file
        at = folder if step is None else folder / str(step)
        raise RunFolderError(f"{at} cannot be read ({_first_line(error)})") from error
    return state


class Checkpointer:
    """Saves and restores ``(state, progress)`` in a folder, the newest few kept.

    Args:
      folder: where the checkpoints lie, a subfolder for each step.
      log: takes a line when a damaged checkpoint is passed over.
      max_to_keep: older ones are deleted.

    Raises:
      RunFolderError: a file stands in the place of the folder. Orbax would notice when it
        saves, hours later, and leave threads behind that wait for ten minutes.
    """

    def __init__(self, folder: Path, log: Log, max_to_keep: int = 3) -> None:
        self._folder = Path(folder).absolute()  # orbax refuses relative paths
        self._log = log
        self._max_to_keep = max_to_keep
        self._manager = self._open()

    def _open(self) -> "ocp.CheckpointManager":
        # Here, as it takes long: who only imports the package need not wait for it.
        import orbax.checkpoint as ocp

        if self._folder.exists() and not self._folder.is_dir():
            raise RunFolderError(
                f"{self._folder} is a file where checkpoints are to lie; move it away"
            )
        options = ocp.CheckpointManagerOptions(max_to_keep=self._max_to_keep, create=True)
        _speak_alone()
        return ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: PyTree, progress: Json) -> None:
        """Starts saving; the files appear under their final name when they are complete.

        Args:
          step: the checkpoint's number; saving a step twice does nothing.
          state: pytree of arrays.
          progress: what JSON can hold.

        Raises:
          OSError: this one or the one before could not be written; so do ``wait`` and ``close``.
        """
        if step in self._manager.all_steps():
            return
        import orbax.checkpoint as ocp

        progress = {**progress, "leaves": _leaves(state)}
        host_state = _stored(state)
        progress = {**progress, "digest": _digest(host_state, progress)}
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(host_state),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(progress),  # pyright: ignore[reportCallIssue]
        )
        with self._writing():
            self._manager.save(step, args=parts)

    def restore(self, like: PyTree) -> tuple[PyTree, Json] | None:
        """Restores the newest checkpoint that is whole; None when there is none.

        A damaged one is moved aside to ``<folder>_damaged`` and the one before is tried.

        Args:
          like: a state of the same structure, shapes and dtypes.

        Raises:
          RunFolderError: a checkpoint of another structure, which stays where it is.
        """
        expected = _leaves(like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            progress = self._progress_of(step) or {}
            saved = progress.get("leaves")
            if saved is not None and (difference := _first_difference(saved, expected)):
                raise RunFolderError(
                    f"{self._folder} holds a run of another state ({difference}): give another "
                    "folder, or the optimiser, sampler and model that the run began with"
                )
            try:
                return self._restore_step(step, like, progress)
            except (MemoryError, PermissionError):  # of the machine, not of the files
                raise
            except Exception as error:  # orbax raises many kinds for a damaged file
                aside = self._move_aside(step)
                self._log(
                    f"checkpoint {step} is damaged ({_first_line(error)}); moved to {aside}, "
                    "falling back to the one before"
                )
        return None

    def progress(self) -> Json | None:
        """What lies beside the state in the newest checkpoint where it can be read, unverified."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        return next(filter(None, map(self._progress_of, steps)), None)

    def _progress_of(self, step: int) -> Json | None:
        import orbax.checkpoint as ocp

        progress = ocp.args.JsonRestore()  # pyright: ignore[reportCallIssue]
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(progress=progress))
            return dict(found["progress"])
        except Exception:  # ``restore`` says that it is damaged
            return None

    def _restore_step(self, step: int, like: PyTree, progress: Json) -> tuple[PyTree, Json]:
        import orbax.checkpoint as ocp

        if not progress:
            raise ValueError("what lies beside its state cannot be read")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _stored(like))
        state = ocp.args.StandardRestore(abstract)  # pyright: ignore[reportCallIssue]
        restored = self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]
        if progress.pop("digest", None) != _digest(restored, progress):
            raise ValueError("its digest does not match its content")
        progress.pop("leaves", None)
        return _like(like, restored), progress

    def _move_aside(self, step: int) -> Path:
        self._manager.close()
        damaged = self._folder.with_name(self._folder.name + "_damaged")
        damaged.mkdir(exist_ok=True)
        target = free_name(damaged / str(step))
        shutil.move(self._folder / str(step), target)
        self._manager = self._open()
        return target

    def wait(self) -> None:
        """Returns when every save that was started is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and releases the folder."""
        self.wait()
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Orbax says with errors of many kinds that files could not be written."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            reason = _first_line(error, 1000).split(" [tensorstore_spec=")[0]
            raise OSError(f"no checkpoint can be written to {self._folder} ({reason})") from error
