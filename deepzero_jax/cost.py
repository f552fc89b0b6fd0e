"""Prices read off a traced function: multiply-adds and live memory.

Both read a jaxpr, so they count what the program asks for, loops multiplied by
their length, whatever the compiler makes of it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from deepzero_jax.jaxprs import sub_jaxprs


def _dot_multiply_adds(eqn: Any) -> int:
    (lhs_contract, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[d] for d in lhs_contract)


def _conv_multiply_adds(eqn: Any) -> int:
    spec = eqn.params["dimension_numbers"].rhs_spec
    kernel = eqn.invars[1].aval.shape
    # spec = (output features, input features, *window); input features are per group already.
    taps = math.prod(kernel[d] for d in spec[1:])
    return math.prod(eqn.outvars[0].aval.shape) * taps


def jaxpr_multiply_adds(jaxpr: core.Jaxpr) -> int:
    """Counts multiply-adds of a jaxpr: of dots, convolutions, elementwise products and quotients.

    A scan counts its body once per iteration. A while loop counts its body once,
    as its length is unknown; a cond counts its dearest branch.
    """
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot_multiply_adds(eqn)
        elif name == "conv_general_dilated":
            total += _conv_multiply_adds(eqn)
        elif name in ("mul", "div"):
            aval: Any = eqn.outvars[0].aval
            total += math.prod(aval.shape) if jnp.issubdtype(aval.dtype, jnp.floating) else 0
        else:
            inner = [jaxpr_multiply_adds(sub) for sub in sub_jaxprs(eqn.params)]
            if name == "scan":
                total += eqn.params["length"] * sum(inner)
            elif name == "cond":
                total += max(inner, default=0)
            else:
                total += sum(inner)
    return total


def multiply_adds(fun: Callable[..., Any], *args: Any) -> int:
    """Counts the multiply-adds of one call ``fun(*args)``; nothing is run.

    Args:
      fun: a traceable function.
      *args: pytrees of arrays or ``jax.ShapeDtypeStruct``.

    **Cost**: one trace, no query.

    Example:
      >>> multiply_adds(jnp.dot, jnp.zeros((2, 3)), jnp.zeros((3, 4)))
      24
    """
    return jaxpr_multiply_adds(jax.make_jaxpr(fun)(*args).jaxpr)


class Operation(NamedTuple):
    """What the account of memory needs to know of one operation.

    Attributes:
      reads: its inputs, by any hashable names.
      writes: ``{name: bytes}`` of its outputs.
      inside: bytes alive inside it at its worst moment.
    """

    reads: Sequence[Any]
    writes: Mapping[Any, int]
    inside: int = 0


def most_alive(operations: Sequence[Operation], results: Iterable[Any]) -> int:
    """Largest sum of bytes alive at once when operations run in order.

    Args:
      operations: in order; what none of them wrote does not count.
      results: names that live to the end.
    """
    last_use = {name: place for place, done in enumerate(operations) for name in done.reads}
    last_use |= dict.fromkeys(results, len(operations))
    alive: dict[Any, int] = {}
    total = largest = 0
    for place, (reads, writes, inside) in enumerate(operations):
        largest = max(largest, total + max(sum(writes.values()), inside))
        for name, size in writes.items():
            if name in last_use:
                alive[name] = size
                total += size
        for name in reads:
            if last_use[name] == place:
                total -= alive.pop(name, 0)
    return largest


def size_bytes(aval: Any) -> int:
    """Bytes of a value of an abstract type."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 4)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def inner_live_bytes(params: dict[str, Any]) -> int:
    """Bytes alive at the worst moment inside an equation with these parameters."""
    return max((jaxpr_live_bytes(sub) for sub in sub_jaxprs(params)), default=0)


def jaxpr_live_bytes(jaxpr: core.Jaxpr) -> int:
    """Largest sum of intermediate values alive at once when a jaxpr runs in order."""
    operations = [
        Operation(
            [var for var in eqn.invars if not isinstance(var, core.Literal)],
            {var: size_bytes(var.aval) for var in eqn.outvars},
            inner_live_bytes(eqn.params),
        )
        for eqn in jaxpr.eqns
    ]
    return most_alive(operations, [v for v in jaxpr.outvars if not isinstance(v, core.Literal)])


def live_bytes(fun: Callable[..., Any], *args: Any) -> int:
    """Bytes of intermediate values that one call ``fun(*args)`` keeps alive at its worst moment.

    Arguments do not count. An upper estimate: the compiler fuses some values away.

    **Cost**: one trace, no query.
    """
    return jaxpr_live_bytes(jax.make_jaxpr(fun)(*args).jaxpr)


# Bytes alive that keep an accelerator busy.
_BUSY = 2**30
_told: ContextVar[int | None] = ContextVar("told", default=None)


@contextmanager
def chunks_for(memory: int) -> Iterator[None]:
    """Traces inside choose their chunks for a device that need not be there.

    Args:
      memory: of it, bytes.
    """
    token = _told.set(memory)
    try:
        yield
    finally:
        _told.reset(token)


def memory_budget(device: Any = None) -> int:
    """Bytes that a chunk of perturbed passes may keep alive on a device.

    A share of the cache on CPU, so that a chunk stays in it. On an accelerator 1 GiB, or half of a
    smaller memory: by then an array of a chunk has some hundred megabytes, which take longer to
    write than a kernel to launch, so that larger chunks add padding alone. It depends on the
    device, never on what is in use, so that a resumed run works in the same chunks.
    """
    memory = _told.get()
    if memory is None:
        device = jax.devices()[0] if device is None else device
        if device.platform == "cpu":
            return 4 * 2**20
        memory = int((device.memory_stats() or {}).get("bytes_limit", 8 * 2**30))
    return min(memory // 2, _BUSY)
