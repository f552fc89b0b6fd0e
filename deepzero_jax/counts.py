"""Counts that a user gives: steps, samples, blocks."""

import operator
from typing import SupportsIndex


def check_count(name: str, value: SupportsIndex, least: int = 1, remedy: str = "") -> int:
    """An integer of Python's, NumPy's or JAX's as one of Python's.

    Args:
      name: of the argument.
      value: of it.
      least: that it may be.
      remedy: the end of a message, if there is more to say.

    Raises:
      ValueError: no integer, whole floats such as 3.0 included, or one below ``least``.

    Example:
      >>> check_count("num_steps", 2.5)
      Traceback (most recent call last):
      ValueError: num_steps must be an integer of at least 1, got 2.5
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}{remedy}")
    return number
