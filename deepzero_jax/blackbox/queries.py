"""Where a traced function asks a black box, read off its jaxpr."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax

from deepzero_jax.jaxprs import CALLBACKS, calls_host, sub_jaxprs
from deepzero_jax.types import PyTree

if TYPE_CHECKING:
    from deepzero_jax.blackbox.box import BlackBox


def host_call(params: dict[str, Any]) -> Any:
    """The function that a callback equation with these parameters calls on the host."""
    flat = params.get("callback")
    return getattr(flat, "callback_func", flat)


def _queries(equations: Sequence[Any], repeats: int = 1) -> Iterator[tuple[Any, Any, int]]:
    """Equations that ask a box: their calls, and how often one evaluation comes by."""
    for eqn in equations:
        if eqn.primitive.name in CALLBACKS:
            call = host_call(eqn.params)
            if getattr(call, "box", None) is not None:
                yield eqn, call, repeats
        for jaxpr in sub_jaxprs(eqn.params):
            yield from _queries(jaxpr.eqns, repeats * _repeats(eqn))


def _repeats(eqn: Any) -> int:
    """How often an equation runs what stands inside it: each step of a scan, each device."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    if eqn.primitive.name == "shard_map":
        sizes = eqn.params["mesh"].shape
        return math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"])
    return 1


def asks_host(equations: Sequence[Any]) -> bool:
    """Whether equations (of a jaxpr, or of a ``difference.program``) call the host for a value.

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp
      >>> box = dz.black_box(lambda x: x, (3,))
      >>> asks_host(jax.make_jaxpr(jax.jit(box))(jnp.ones((2, 3))).eqns)
      True
    """
    return any(map(calls_host, equations))


def boxes_called(equations: Sequence[Any]) -> set["BlackBox"]:
    """The black boxes that equations (of a jaxpr, or of a ``difference.program``) ask."""
    return {call.box for _, call, _ in _queries(equations)}


def boxes_asked(equations: Sequence[Any]) -> dict["BlackBox", int]:
    """The black boxes that equations of a jaxpr ask: samples of each that one evaluation sends.

    Copies under ``vmap`` and devices under ``shard_map`` count each, loops of unknown length and
    branches once.
    """
    found: dict[BlackBox, int] = {}
    for eqn, call, repeats in _queries(equations):
        copies = call.num_copies([one.aval for one in eqn.invars], eqn.outvars[0].aval)
        found[call.box] = found.get(call.box, 0) + repeats * copies * call.num_samples
    return found


def samples_asked(fun: Callable[..., PyTree], *args: PyTree) -> int:
    """Samples that one evaluation of a function of JAX sends to black boxes; nothing is asked.

    They are read off its trace, in which a loop of unknown length counts as one turn, and a
    ``cond`` as all of its branches. An estimate by ``cge`` or ``rge`` has such loops: give the
    function of ``value_and_grad`` itself, which knows its queries, and not one around it.

    Args:
      fun: the function.
      args: of it; of an estimate parameters and what the loss takes, without a key.

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp
      >>> box = dz.black_box(lambda x: x, (3,))
      >>> samples_asked(lambda x: box(x) + box(x[:1]), jnp.ones((2, 3))), box.num_samples
      (3, 0)
      >>> samples_asked(jax.vmap(box), jnp.ones((5, 2, 3)))
      10
    """
    if own := getattr(fun, "samples_asked", None):
        return own(*args)
    return sum(boxes_asked(jax.make_jaxpr(fun)(*args).eqns).values())
