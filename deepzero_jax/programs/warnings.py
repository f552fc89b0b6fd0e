"""Warnings of the library as lines of a program."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from deepzero_jax.types import Log


class _Lines(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def warnings_in(log: Log) -> Iterator[None]:
    """Has what the library warns of, by its logger, appear in the log of a program, and only there.

    Args:
      log: takes a line.
    """
    logger, lines = logging.getLogger("deepzero_jax"), _Lines(log)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.propagate = before
