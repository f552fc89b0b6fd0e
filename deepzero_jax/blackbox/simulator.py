"""A program that answers over its pipes as a black box."""

import contextlib
import io
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, Literal, cast

import numpy as np

from deepzero_jax.blackbox.answers import from_json
from deepzero_jax.blackbox.errors import BlackBoxError
from deepzero_jax.types import PyTree

Format = Literal["json", "npy"]


class Simulator:
    """A host function that asks a running program; see ``subprocess_simulator``."""

    def __init__(self, command: Sequence[str], format: Format) -> None:
        if isinstance(command, str) or not command:
            raise ValueError(f"command must be a list of words, got {command!r}")
        if format not in _FORMATS:
            raise ValueError(f"format must be one of {sorted(_FORMATS)}, got {format!r}")
        self._command, self._format = list(command), format
        self._program: subprocess.Popen[bytes] | None = None
        # A file, as a pipe that nobody reads would block a program that says much.
        self._errors: IO[bytes] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[PyTree, ...]:
        return Simulator, (self._command, self._format)

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """The answers to samples [n, …]."""
        if len(inputs) != 1 or not hasattr(inputs[0], "tolist"):
            kind = type(inputs[0]).__name__ if len(inputs) == 1 else f"{len(inputs)} inputs"
            raise BlackBoxError(f"a program on pipes is sent one array of samples, got {kind}")
        samples = np.asarray(inputs[0])
        write, read = _FORMATS[self._format]
        with self._lock:
            program, is_whole = self._running(), False
            try:
                if _has_more(cast(IO[bytes], program.stdout)):
                    raise ValueError(
                        "it wrote more than one answer to a call, or before the first: answers "
                        "would be taken for those of other samples"
                    )
                write(cast(IO[bytes], program.stdin), samples)
                answers = read(cast(IO[bytes], program.stdout))
                if answers.dtype.kind not in "fiub":
                    raise ValueError(f"no numbers, {str(answers)[:80]}")
                is_whole = True
            except (OSError, EOFError, ValueError) as error:
                raise RuntimeError(self._last_words(program, error)) from error
            finally:
                # A program that has lost its place in the stream is not asked again.
                if not is_whole:
                    self._end()
            return cast(np.ndarray, answers)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._program is not None and self._program.poll() is not None:
            self._end()
        if self._program is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the program
            pipe = subprocess.PIPE
            try:
                self._program = subprocess.Popen(
                    self._command, stdin=pipe, stdout=pipe, stderr=self._errors
                )
            except OSError as error:
                self._end()
                if isinstance(error, FileNotFoundError | PermissionError):
                    raise BlackBoxError(f"there is no program to start: {error}") from error
                raise
        return self._program

    def _last_words(self, program: "subprocess.Popen[bytes]", error: BaseException) -> str:
        try:
            told = f"ended with status {program.wait(0.5)}"
        except subprocess.TimeoutExpired:
            told = f"answered otherwise than agreed ({error})"
        words = b""
        if self._errors is not None:
            self._errors.seek(0)
            words = self._errors.read()
        last = words.decode(errors="replace").strip().splitlines()[-1:]
        return f"{self._command[0]} {told}" + (f": {last[0][:200]}" if last else "")

    def _end(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.kill()
            program.wait()
            for pipe in (program.stdin, program.stdout):
                with contextlib.suppress(OSError):  # what was not yet written is lost
                    cast(IO[bytes], pipe).close()
        if self._errors is not None:
            self._errors.close()

    def close(self) -> None:
        """Ends the program; the next call starts it anew."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        if hasattr(self, "_errors"):
            self._end()


def _has_more(pipe: IO[bytes]) -> bool:
    """Whether something lies there to be read, without waiting for it."""
    number = pipe.fileno()
    try:
        os.set_blocking(number, False)
    except (AttributeError, OSError):  # where pipes cannot be asked: Windows before Python 3.12
        return False
    try:
        return bool(cast(Any, pipe).peek(1))
    finally:
        os.set_blocking(number, True)


def _write_json(pipe: IO[bytes], samples: np.ndarray) -> None:
    pipe.write(json.dumps(samples.tolist()).encode() + b"\n")
    pipe.flush()


def _read_json(pipe: IO[bytes]) -> np.ndarray:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError("no line")
    return from_json(json.loads(line))


def _write_npy(pipe: IO[bytes], samples: np.ndarray) -> None:
    whole = io.BytesIO()
    np.save(whole, samples, allow_pickle=False)
    pipe.write(whole.getvalue())
    pipe.flush()


def _read_npy(pipe: IO[bytes]) -> np.ndarray:
    version = np.lib.format.read_magic(pipe)
    header = _HEADERS.get(version)
    if header is None:
        raise ValueError(f"version {version} of NumPy's format")
    shape, in_columns, dtype = header(pipe)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError("a part of an array")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if in_columns else "C")


_HEADERS: dict[tuple[int, int], Callable[..., PyTree]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_FORMATS: dict[str, tuple[Callable[[IO[bytes], np.ndarray], None], Callable[[IO[bytes]], Any]]] = {
    "json": (_write_json, _read_json),
    "npy": (_write_npy, _read_npy),
}


def subprocess_simulator(command: Sequence[str], format: Format = "json") -> Simulator:
    """A host function for ``black_box`` that asks a program over its standard input and output.

    The program is started at the first call and runs on. It reads samples [n, …] and writes
    answers [n, …]: with ``"json"`` nested lists, one line each; with ``"npy"`` arrays in
    NumPy's file format, one after the other (``np.save``; ``np.load`` takes a file that can be
    sought in, so a program reads from its pipe as below).

    Args:
      command: the program and its arguments.
      format: of samples and answers.

    Returns:
      ``(samples) -> answers``. A program that dies is started again at the next call; its
      last words on standard error are in the message. In a worker process each has its own.
      Where there is no such program it raises ``BlackBoxError``.

    Raises:
      ValueError: an empty command, or an unknown format.

    Example:
      >>> import sys, numpy as np
      >>> program = '''
      ... import sys, numpy as np
      ... read, write = sys.stdin.buffer, sys.stdout.buffer
      ... while True:
      ...     np.lib.format.read_magic(read)
      ...     shape, _, dtype = np.lib.format.read_array_header_1_0(read)
      ...     samples = np.frombuffer(read.read(dtype.itemsize * int(np.prod(shape))), dtype)
      ...     np.save(write, samples.reshape(shape).sum(axis=1))
      ...     write.flush()
      ... '''
      >>> simulator = subprocess_simulator([sys.executable, "-c", program], format="npy")
      >>> simulator(np.ones((2, 3)))
      array([3., 3.])
      >>> simulator.close()
    """
    return Simulator(command, format)
