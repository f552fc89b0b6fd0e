"""Failures on the host of programs that run on several devices: all of them fail, or none.

A device that fails by itself leaves the others waiting for it in their next collective, for ever or
until XLA aborts the process. So a callback that fails keeps its error, and answers NaN; what raises
the error comes where every device has heard of it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from deepzero_jax.types import Array

# Of arrays, what the host answers.
Call = Callable[..., Sequence[np.ndarray]]
Shapes = Sequence[jax.ShapeDtypeStruct]
_deferring: ContextVar[bool] = ContextVar("deferring", default=False)


def is_deferring() -> bool:
    """Whether what is traced now answers for the failures of its callbacks."""
    return _deferring.get()


@contextmanager
def deferring() -> Iterator[None]:
    """Callbacks traced inside keep their errors, for ``raise_together`` after them."""
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


def asked_by_one(
    num_devices: int, call: Call, shapes: Shapes, operands: Sequence[jax.Array]
) -> list[jax.Array]:
    """The answers of a callback that one device makes for all, its error raised by each of them."""
    kept = _Kept(call, shapes)
    flag = jax.ShapeDtypeStruct((), bool)
    # The answers are not said to be whole: every device would ask for them.
    operands = [_whole(array, num_devices) for array in operands]
    *answers, has_failed = jax.pure_callback(
        kept.ask, [*shapes, flag], *operands, vmap_method="expand_dims"
    )

    def fail(answers: list[jax.Array]) -> list[jax.Array]:
        jax.debug.callback(kept.fail, partitioned=True)  # on every device
        return answers

    return lax.cond(has_failed, fail, lambda answers: answers, answers)


def _whole(array: jax.Array, num_devices: int) -> jax.Array:
    """An array that every device has all of."""
    mesh = jax.typeof(array).sharding.mesh
    if AxisType.Explicit in mesh.axis_types:
        return reshard(array, NamedSharding(mesh, PartitionSpec()))
    # Any mesh of as many devices will do to say so.
    mesh = AbstractMesh((num_devices,), ("devices",))
    return lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec()))


class _Kept:
    """A function of the host, and the error of its last call that failed."""

    def __init__(self, call: Call, shapes: Shapes) -> None:
        self._call, self._shapes = call, shapes
        self._error: BaseException | None = None

    def ask(self, *operands: np.ndarray) -> list[Any]:
        try:
            return [*self._call(*operands), np.bool_(False)]
        except BaseException as error:
            self._error = error
            return [*_nothing(self._shapes), np.bool_(True)]

    def fail(self) -> None:
        raise self._error or _elsewhere()


def _nothing(shapes: Shapes) -> list[np.ndarray]:
    """NaN in place of answers; zeros where they are no floats."""
    floats = [jnp.issubdtype(shape.dtype, jnp.inexact) for shape in shapes]
    return [
        np.full(shape.shape, np.nan if is_float else 0, shape.dtype)
        for shape, is_float in zip(shapes, floats, strict=True)
    ]


def _elsewhere() -> RuntimeError:
    # As JAX words the error of a black box, which is read from the text.
    return RuntimeError("BlackBoxError: a black box failed in another process, which says why")


class _Untold:
    """Errors of this process that callbacks keep, each on its device, until all have heard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_failed = self._num_seen = self._num_told = 0
        self._error: BaseException | None = None

    def asking(self, call: Call, shapes: Shapes) -> Call:
        """A function of the host that fails without a word; nothing is asked after a failure."""

        def ask(*operands: np.ndarray) -> Sequence[np.ndarray]:
            with self._lock:
                has_failed = self._num_failed > self._num_told
                self._num_failed += has_failed  # also to be told where it is of another program
            if has_failed:
                return _nothing(shapes)
            try:
                return call(*operands)
            except BaseException as error:
                with self._lock:
                    self._num_failed += 1
                    self._error = error
                return _nothing(shapes)

        return ask

    def look(self, after: np.ndarray) -> np.ndarray:
        """Whether something has failed of which no device has told."""
        del after
        with self._lock:
            self._num_seen = self._num_failed
            has_failed = self._num_failed > self._num_told
            if not has_failed:
                self._error = None
        return np.asarray(has_failed)

    def fail(self, after: np.ndarray) -> Any:
        """Raises the error."""
        del after
        with self._lock:
            self._num_told = self._num_seen
            raise self._error or _elsewhere()


_untold = _Untold()


def asked_by_each(call: Call, shapes: Shapes, operands: Sequence[jax.Array]) -> list[jax.Array]:
    """The answers of a callback that each device makes by itself, its error for later."""
    ask = _untold.asking(call, shapes)
    return jax.pure_callback(ask, list(shapes), *operands, vmap_method="expand_dims")


def raise_together(results: Sequence[Array], axis: str) -> list[Array]:
    """The results of a ``shard_map``; where a callback ``deferring`` has failed, each device fails.

    Args:
      results: of all that asks the host, on this device.
      axis: of the mesh, over which devices hear of one another.
    """
    is_number = [not jnp.issubdtype(r.dtype, jax.dtypes.extended) for r in results]
    numbers = [r for r, known in zip(results, is_number, strict=True) if known]
    # A sum, as the barriers of XLA do not order what its devices do.
    after = sum(jnp.sum(number, dtype=jnp.float32) for number in numbers)
    has_failed = jax.pure_callback(_untold.look, jax.ShapeDtypeStruct((), bool), after)
    num_failed = lax.psum(has_failed.astype(jnp.int32), axis)
    shapes = [jax.ShapeDtypeStruct(number.shape, number.dtype) for number in numbers]
    told = iter(
        lax.cond(
            num_failed > 0,
            lambda numbers: jax.pure_callback(_untold.fail, shapes, after),
            lambda numbers: numbers,
            numbers,
        )
    )
    return [next(told) if known else r for r, known in zip(results, is_number, strict=True)]


def forget_failures() -> None:
    """Has JAX forget that programs on several devices have failed, once that has been told.

    It keeps how the last program that called the host ended, for each device, and would raise its
    error again in ``jax.effects_barrier`` and at exit.
    """
    devices = jax.local_devices()
    if len(devices) > 1:
        each = NamedSharding(Mesh(np.asarray(devices), ("devices",)), PartitionSpec("devices"))
        jax.block_until_ready(_call_nothing(jax.device_put(np.zeros(len(devices)), each)))


@jax.jit
def _call_nothing(numbers: jax.Array) -> jax.Array:
    jax.debug.callback(lambda: None)
    return numbers
