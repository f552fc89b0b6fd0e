"""Asking that is to stop: what a box waits for is given up, and nothing is sent once more."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepzero_jax.blackbox.errors import AskingStoppedError

# Seconds between two looks at whether to stop. An event would wake at once, and hang where its
# waiter is interrupted by the signal's handler that sets it.
_LOOK = 0.05


class _Watch:
    """Looks whether to stop; what was given up once is not begun again."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked, self.has_given_up = asked, False


_watches: list[_Watch] = []


@contextmanager
def stop_asking_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Inside, the boxes of this process look at ``asked()`` where they wait, and before they retry.

    Where it is true, a box that would wait (``backoff``, a Retry-After, a call that was given up)
    or send samples once more raises ``AskingStoppedError``, and from then on so does every other.
    Calls that are answered go on to the end of what was asked for.

    Args:
      asked: whether to stop; called from the threads that ask, several times a second.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> def busy(x):
      ...     raise dz.blackbox.RetryLaterError("busy", 60)
      >>> box = dz.black_box(busy, (1,))
      >>> with dz.blackbox.stop_asking_when(lambda: box.num_calls == 1):
      ...     box(jnp.ones((2, 3)))
      Traceback (most recent call last):
      deepzero_jax.blackbox.errors.AskingStoppedError: no further attempt, as it is to stop...
    """
    watch = _Watch(asked)
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


class Stops:
    """Where something asks, whether it is to stop: by the watches around it when this is made.

    It may ask on from another thread when they are left.
    """

    def __init__(self) -> None:
        self._watches = tuple(_watches)

    @property
    def asked(self) -> bool:
        """Whether nothing is to be sent once more."""
        return any(watch.has_given_up or watch.asked() for watch in self._watches)

    def check_begin(self) -> None:
        """Raises AskingStoppedError where something else inside was given up already."""
        if any(watch.has_given_up for watch in self._watches):
            raise AskingStoppedError("no call, as another one was given up")

    def check_again(self, reason: str) -> None:
        """Raises AskingStoppedError where nothing is to be sent once more, for a reason."""
        for watch in self._watches:
            if watch.has_given_up or watch.asked():
                watch.has_given_up = True
                last = f"; the last one: {reason}" if reason else ""
                raise AskingStoppedError(f"no further attempt, as it is to stop{last}")

    def wait(self, seconds: float, reason: str) -> None:
        """Waits, if more than no time; raises as ``check_again``, as soon as it is to stop."""
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            self.check_again(reason)
            time.sleep(min(remaining, _LOOK) if self._watches else remaining)

    def wait_for(self, thread: threading.Thread, seconds: float | None) -> None:
        """Waits until a call that was given up has ended, at most so long; raises likewise.

        Args:
          thread: that is in it.
          seconds: None: for ever.
        """
        end = float("inf") if seconds is None else time.monotonic() + seconds
        while thread.is_alive() and (remaining := end - time.monotonic()) > 0:
            self.check_again("it was given up, and is still running")
            thread.join(min(remaining, _LOOK))
