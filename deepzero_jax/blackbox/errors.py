"""How a black box says that it gave no answer, also from inside ``jit``."""

import _thread
import contextlib
import email.utils
import logging
import math
import pickle
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deepzero_jax.failures import forget_failures


class BlackBoxError(RuntimeError):
    """The box gave no usable answer; the message names the call and what to do."""


class AskingStoppedError(BlackBoxError):
    """What was asked was given up, as it was to stop; see ``stop_asking_when``."""


class RetryLaterError(OSError):
    """An answer that asks to be asked again later, as an endpoint does that is too busy.

    Raised by a host function, it has the box wait, and send the same call again.

    Args:
      message: what was said.
      retry_after: seconds to wait, or a Retry-After header, which is a number of them or a date;
        None where nothing was said of it.

    Example:
      >>> RetryLaterError("busy", "3").retry_after
      3.0
      >>> RetryLaterError("busy", "Wed, 21 Oct 2015 07:28:00 GMT").retry_after
      0.0
    """

    def __init__(self, message: str, retry_after: float | str | None = None) -> None:
        super().__init__(message)
        is_header = isinstance(retry_after, str)
        self.retry_after = _seconds(retry_after) if is_header else retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.retry_after)


def _seconds(header: str) -> float | None:
    """Of a Retry-After header; None of one that cannot be read."""
    with contextlib.suppress(ValueError):
        return float(header) if 0 <= float(header) < math.inf else None
    try:
        date = email.utils.parsedate_to_datetime(header)
        return max(date.timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


class WrongAnswerError(ValueError):
    """An answer that a further attempt would not mend: a wrong structure, shape or type."""


def _is_told_otherwise(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    told = error is not None and failure(error) is not None
    return not (told or isinstance(error, KeyboardInterrupt))


# JAX logs the traceback of a failed callback, and then raises it: a user would read it twice.
for _name in ("jax._src.callback", "jax._src.debugging"):
    logging.getLogger(_name).addFilter(_is_told_otherwise)


# As the last line of a traceback tells of them.
_TOLD = re.compile(r"(BlackBoxError|AskingStoppedError): (.*)")


def failure(error: BaseException) -> str | None:
    """What a black box said, if it is what made a computation fail.

    Args:
      error: a ``BlackBoxError``, or what JAX raised in its place.

    Example:
      >>> failure(RuntimeError("INTERNAL: … BlackBoxError: no answer within 2 s"))
      'no answer within 2 s'
    """
    if isinstance(error, BlackBoxError):
        return str(error)
    found = _TOLD.search(str(error))
    return found[2] if found else None


def was_stopped(error: BaseException) -> bool:
    """Whether what ``failure`` tells of is an ``AskingStoppedError``."""
    if isinstance(error, BlackBoxError):
        return isinstance(error, AskingStoppedError)
    found = _TOLD.search(str(error))
    return found is not None and found[1] == AskingStoppedError.__name__


# Interrupts that are to reach the main thread when it has left its callback.
_on_their_way: list[threading.Timer] = []


def _interrupt() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # it wakes a thread that sleeps
    else:
        _thread.interrupt_main()


def pass_on_interrupt() -> None:
    """Has the main thread interrupted: a compiled function makes another error of a Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        _interrupt()
        return
    # Later, as JAX would take for the callback's failure what reaches it in there.
    timer = threading.Timer(0.02, _interrupt)
    timer.daemon = True
    _on_their_way.append(timer)
    timer.start()


@contextmanager
def box_errors() -> Iterator[None]:
    """Raises the ``BlackBoxError`` itself where JAX raises an error of its own around it.

    A compiled function fails with ``jax.errors.JaxRuntimeError``, whatever a callback in it
    raised; its text holds the traceback of the callback, and at its end the box's words.
    Results must be looked at inside (``jax.block_until_ready``), as JAX computes later.

    Raises:
      BlackBoxError: of a box inside a compiled function.
      KeyboardInterrupt: likewise.

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp
      >>> box = dz.black_box(lambda x: 1 / 0, (1,), retries=0)
      >>> with dz.blackbox.box_errors():
      ...     jax.block_until_ready(jax.jit(box)(jnp.ones((2, 3))))
      Traceback (most recent call last):
      deepzero_jax.blackbox.errors.BlackBoxError: call 1 of the black box, with 2 samples, ...
    """
    try:
        yield
    except BlackBoxError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = failure(error)
        if reason is not None:
            forget_failures()
            raise (AskingStoppedError if was_stopped(error) else BlackBoxError)(reason) from None
        if re.search(r"\nKeyboardInterrupt\b", str(error)):
            while _on_their_way:
                _on_their_way.pop().cancel()
            raise KeyboardInterrupt from None
        raise


def in_words(error: BaseException) -> str:
    """An error on one line of at most 500 characters."""
    words = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())
    return words if len(words) <= 500 else words[:499] + "…"


def portable(error: Exception) -> Exception:
    """An exception as another process can be sent it; some cannot be made again from a pickle."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        if isinstance(error, RetryLaterError):
            return RetryLaterError(str(error), error.retry_after)
        return (BlackBoxError if isinstance(error, BlackBoxError) else RuntimeError)(
            in_words(error)
        )
    return error
