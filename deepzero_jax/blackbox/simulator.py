"""A program that answers over its pipes as a black box."""

import io
import json
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Literal

import numpy as np

from deepzero_jax.blackbox.answers import from_json
from deepzero_jax.blackbox.errors import BlackBoxError
from deepzero_jax.blackbox.pipes import HadEndedError, Program
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
        # One program for each call that is on its way at the same time.
        self._idle: list[Program] = []
        self._asked: dict[int, Program] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._idle, self._asked)

    def __reduce__(self) -> tuple[PyTree, ...]:
        return Simulator, (self._command, self._format)

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """The answers to samples [n, …]."""
        if len(inputs) != 1 or not hasattr(inputs[0], "tolist"):
            kind = type(inputs[0]).__name__ if len(inputs) == 1 else f"{len(inputs)} inputs"
            raise BlackBoxError(f"a program on pipes is sent one array of samples, got {kind}")
        encode, read = _FORMATS[self._format]
        content = encode(np.asarray(inputs[0]))
        while True:
            program, is_whole = self._take(), False
            try:
                answers = program.ask(content, read)
                if answers.dtype.kind not in "fiub":
                    raise ValueError(f"no numbers, {str(answers)[:80]}")
                is_whole = True
                return answers
            except HadEndedError:  # as one does that answers once: another is started
                continue
            except (OSError, EOFError, ValueError) as error:
                raise RuntimeError(program.last_words(error)) from error
            finally:
                self._give_back(program, is_whole)

    def _take(self) -> Program:
        with self._lock:
            program = None
            while self._idle and program is None:
                program = self._idle.pop()
                if program.has_ended:
                    program.close()
                    program = None
            if program is None:
                try:
                    program = Program(self._command)
                except (FileNotFoundError, PermissionError) as error:
                    raise BlackBoxError(f"there is no program to start: {error}") from error
            self._asked[threading.get_ident()] = program
            return program

    def _give_back(self, program: Program, is_whole: bool) -> None:
        """A program that has lost its place in the stream is not asked again."""
        with self._lock:
            kept = self._asked.pop(threading.get_ident(), None) is program and is_whole
            if kept:
                self._idle.append(program)
        if not kept:
            program.close()

    def give_up(self, thread: int) -> None:
        """Ends the program of a call that a thread waits for, and so the call."""
        with self._lock:
            if thread in self._asked:
                self._asked[thread].kill()

    def close(self) -> None:
        """Ends the programs, also those of calls on their way; the next call starts one anew."""
        with self._lock:
            _end(self._idle, self._asked)


def _end(idle: list[Program], asked: dict[int, Program]) -> None:
    for program in asked.values():
        program.kill()
    while idle:
        idle.pop().close()


def _to_json(samples: np.ndarray) -> bytes:
    return json.dumps(samples.tolist()).encode() + b"\n"


def _read_json(pipe: IO[bytes]) -> np.ndarray:
    line = b"\n"
    while line.isspace():
        line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError("no line")
    return from_json(json.loads(line))


def _to_npy(samples: np.ndarray) -> bytes:
    whole = io.BytesIO()
    np.save(whole, samples, allow_pickle=False)
    return whole.getvalue()


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
_FORMATS: dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[IO[bytes]], np.ndarray]]] = {
    "json": (_to_json, _read_json),
    "npy": (_to_npy, _read_npy),
}


def subprocess_simulator(command: Sequence[str], format: Format = "json") -> Simulator:
    """A host function for ``black_box`` that asks a program over its standard input and output.

    The program is started at the first call and runs on. It reads samples [n, …] and writes
    answers [n, …], one for each call: with ``"json"`` nested lists, one line each; with
    ``"npy"`` arrays in NumPy's file format, one after the other (``np.save``; ``np.load`` takes
    a file that can be sought in, so a program reads from its pipe as below).

    Args:
      command: the program and its arguments.
      format: of samples and answers.

    Returns:
      ``(samples) -> answers``. Each thread or worker process that asks has a program of its
      own. One that dies, or that ends after each answer, is started again at the next call;
      its last words on standard error are in the message. One whose call is given up
      (``timeout`` of the box) is ended, as all are by ``close()``, with this process, or where
      this process is killed (not on Windows). Where there is no such program, or where it
      writes more answers than it is asked for, a call raises ``BlackBoxError``.

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
