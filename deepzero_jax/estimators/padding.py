"""Padding of chunks: a black box is told which copies of a query are padding, and not asked them.

Coordinates go side by side in chunks of one size, filled up by padding. What JAX computes for
it is thrown away; what a box is asked may be charged.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deepzero_jax.blackbox import HostCall, host_call
from deepzero_jax.blackbox.call import ByCall
from deepzero_jax.difference.rules import OWN_RULES
from deepzero_jax.jaxprs import CALLBACKS, calls_host
from deepzero_jax.types import Array

_asked: ContextVar[Array | None] = ContextVar("asked", default=None)


@contextmanager
def asked_where(valid: Array | None) -> Iterator[None]:
    """Queries traced within are made where a boolean holds; None: wherever they are evaluated."""
    token = _asked.set(valid)
    try:
        yield
    finally:
        _asked.reset(token)


def where_asked() -> Array | None:
    """What ``asked_where`` has set."""
    return _asked.get()


def can_be_told(equations: Sequence[Any]) -> bool:
    """Whether a program asks the host, and only by queries of boxes that heed ``asked_where``.

    One inside of a loop or a branch may be evaluated whole, and so asked for padding; a callback
    that is no black box cannot be told.
    """
    asking = [eqn for eqn in equations if calls_host(eqn)]
    names = {eqn.primitive.name for eqn in asking}
    if not names <= set(CALLBACKS) or names & set(OWN_RULES):
        return False
    return bool(asking) and all(isinstance(host_call(eqn.params), HostCall) for eqn in asking)


@dataclass(frozen=True)
class OnlyAsked(ByCall):
    """What a callback calls whose last operand says for which copies under ``vmap``.

    Its call takes the other operands.

    Attributes:
      shapes: of the results for one copy; they are zero where nothing is asked.
    """

    shapes: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The results for all copies."""
        given, asked = list(map(np.asarray, arrays[:-1])), np.asarray(arrays[-1])
        # It is a scalar for one copy, so that all its axes are those that ``vmap`` put in front.
        front = asked.ndim
        outer = np.broadcast_shapes(asked.shape, *(array.shape[:front] for array in given))
        if asked.all():  # what is the same for all copies is asked once
            pairs = zip(self.call(*given), self.shapes, strict=True)
            return [np.broadcast_to(answer, (*outer, *shape.shape)) for answer, shape in pairs]
        rows = np.broadcast_to(asked, outer).reshape(-1)

        def kept(array: np.ndarray) -> np.ndarray:
            tail = array.shape[front:]
            if math.prod(array.shape[:front]) == 1:
                return array.reshape((1, *tail))
            return np.broadcast_to(array, (*outer, *tail)).reshape((rows.size, *tail))[rows]

        answers = self.call(*map(kept, given)) if rows.any() else []
        found = [np.zeros((rows.size, *shape.shape), shape.dtype) for shape in self.shapes]
        for whole, answer in zip(found, answers, strict=False):
            whole[rows] = answer
        return [whole.reshape((*outer, *whole.shape[1:])) for whole in found]
