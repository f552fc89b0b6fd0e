"""From what ended a program to its exit status and its one line on stderr."""

import os
import signal
import sys
import traceback

import jax
from flax.errors import FlaxError

from deepzero_jax.training import (
    InterruptedRunError,
    NonFiniteError,
    RunFolderError,
    StepFailedError,
    black_box_failure,
)

_GOES_ON = "what is saved is kept, and the same command goes on from there"
# Words by which a full disk is told in an error of another library.
_FULL = ("No space left on device", "Disk quota exceeded")


def exit_status(error: BaseException, started: bool) -> tuple[int | None, str]:
    """The exit status and the line for what ended a program.

    Args:
      error: that ended it.
      started: whether the run had begun, so that there is something to go on with.

    Returns:
      ``(status, words)``: 2 for what is wrong with the record, the folder or what they name;
      1 for a run that failed and can be gone on with; 128 + n after signal n; None for a
      fault of the program itself.
    """
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InterruptedRunError):
        return 128 + error.signum, words
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, f"stopped by SIGINT; {_GOES_ON}"
    if isinstance(error, NonFiniteError | StepFailedError):
        return 1, words
    reason = black_box_failure(error) if isinstance(error, Exception) else None
    if reason is not None:
        return 1, f"{reason}. What is done is kept; the same command goes on from there"
    if isinstance(error, BrokenPipeError):
        return 1, f"standard output was closed; {_GOES_ON}"
    if any(full in words for full in _FULL):
        return 1, f"the disk is full ({words[:200]}); make room: {_GOES_ON}"
    if isinstance(error, RunFolderError):
        return 2, f"{words} (--workdir)"
    if isinstance(error, OSError) and started:
        return 1, f"{words}; {_GOES_ON}"
    if isinstance(error, jax.errors.JaxRuntimeError | NotImplementedError):
        return None, words
    # Flax says with errors of its own what is wrong with a model.
    if isinstance(error, ValueError | TypeError | OSError | ImportError | FlaxError):
        return 2, words
    return None, words


def report_failure(name: str, error: BaseException, debug: bool, started: bool = False) -> int:
    """Says on one line of stderr what is wrong; the exit status. A fault of ours is raised.

    Args:
      name: of the program.
      error: that ended it.
      debug: whether to show the traceback as well.
      started: as of ``exit_status``.
    """
    if debug:
        traceback.print_exception(error)
    status, words = exit_status(error, started)
    if status is None:
        raise error
    if isinstance(error, BrokenPipeError):
        # Python flushes standard output at exit, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    kind = "" if status > 2 else "error: "
    print(f"{name}: {kind}{words}", file=sys.stderr)
    return status
