"""Forms of operations that a platform's compiler runs fast; elsewhere the plain ones.

See ``benchmarks/NOTES.md``. On CPUs a plain reduction of [256, 32, 32, 16] to [16] runs as a slow
window reduction on one core, and a convolution of one input channel as a matrix product of inner
size nine. On GPUs convolutions of one channel, a chunk of them, become one grouped convolution
with a group for each coordinate, transposed before and after; a sum of shifts is one elementwise
kernel that writes its result once.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

_ROWS = 32  # summed at a time: enough to pay, few enough to stay in registers
_LANES = 64
_chosen: ContextVar[str | None] = ContextVar("forms", default=None)
PLAIN = "plain"
_KNOWN = ("cpu", "gpu", "tpu", PLAIN)


def forms() -> str:
    """Whose forms are wanted: a platform of JAX, by default the one it runs on, or ``PLAIN``."""
    return _chosen.get() or jax.default_backend()


@contextmanager
def forms_of(platform: str) -> Iterator[None]:
    """Traces inside use the forms of a platform, which need not be there.

    Args:
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``; or ``"plain"`` for the plain forms, so that
        what is read off a trace holds everywhere.

    Raises:
      ValueError: another platform.
    """
    if platform not in _KNOWN:
        raise ValueError(f"no forms of {platform!r} (known: {', '.join(_KNOWN)})")
    token = _chosen.set(platform)
    try:
        yield
    finally:
        _chosen.reset(token)


def narrow_result(primitive: str, operands: DTypeLike) -> DTypeLike:
    """The type in which a product of narrow operands is asked for; it adds up in float32 anyway.

    cuDNN has no convolution of bfloat16 to float32: asked for one, the compiler would widen the
    operands, which were just rounded, and multiply in float32.
    """
    rounds = forms() == "gpu" and primitive == "conv_general_dilated"
    return operands if rounds else jnp.float32


def shifts_one_channel() -> bool:
    """Whether ``convolve_channel`` is the faster convolution of one channel."""
    return forms() in ("cpu", "gpu")


def staged_sum(array: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Sums over axes, a few rows at a time where that is faster."""
    axes = sorted(axes)
    first, count = (axes[0], len(axes)) if axes else (0, 0)
    together = axes == list(range(first, first + count))
    if not (forms() == "cpu" and together and array.size >= 2**14):
        return jnp.sum(array, axis=tuple(axes), dtype=array.dtype)
    before, middle = array.shape[:first], array.shape[first : first + count]
    rest = array.shape[first + count :]
    num_rows, width = math.prod(middle), math.prod(rest)
    if first > 0:
        if not rest:
            return jnp.sum(array, axis=tuple(axes), dtype=array.dtype)
        rows = array.reshape(-1, num_rows, width)
        ones = jnp.ones((rows.shape[0], 1, num_rows), rows.dtype)
        dims = (((2,), (1,)), ((0,), (0,)))
        total = lax.dot_general(ones, rows, dims, precision=lax.Precision.HIGHEST)
        return total.reshape(*before, *rest)
    if not rest and num_rows % _LANES == 0:
        lanes = _sum_rows(array.reshape(-1, _LANES))
        return jnp.sum(lanes, dtype=array.dtype)
    return _sum_rows(array.reshape(num_rows, width)).reshape(rest)


@partial(jax.jit, inline=True)
def _sum_rows(rows: jax.Array) -> jax.Array:
    if rows.shape[0] % _ROWS == 0 and rows.shape[0] > _ROWS:
        rows = jnp.sum(rows.reshape(-1, _ROWS, rows.shape[1]), axis=1, dtype=rows.dtype)
    # The compiler would merge two sums into one slow one, but not a sum and a product.
    ones = jnp.ones((1, rows.shape[0]), rows.dtype)
    return lax.dot(ones, rows, precision=lax.Precision.HIGHEST)[0]


def convolve_channel(
    image: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Convolution of one channel as a sum of shifted copies.

    Args:
      image: [n, h, w].
      kernel: [kh, kw, features].
      strides: of the window.
      padding: of height and width, not negative.
      dilation: of the kernel.

    Returns:
      [n, h′, w′, features].
    """
    padded = lax.pad(
        image, jnp.zeros((), image.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in padding)]
    )
    kh, kw, _ = kernel.shape
    sizes = [
        (padded.shape[1 + k] - (kernel.shape[k] - 1) * dilation[k] - 1) // strides[k] + 1
        for k in range(2)
    ]
    total = None
    for row in range(kh):
        for column in range(kw):
            start = (0, row * dilation[0], column * dilation[1])
            limit = (
                padded.shape[0],
                start[1] + (sizes[0] - 1) * strides[0] + 1,
                start[2] + (sizes[1] - 1) * strides[1] + 1,
            )
            window = lax.slice(padded, start, limit, (1, *strides))
            term = window[..., None] * kernel[row, column]
            total = term if total is None else total + term
    return jnp.zeros(()) if total is None else total
