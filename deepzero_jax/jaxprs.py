"""What stands inside the equations of a traced function."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from deepzero_jax.varying import varying

# Primitives that call the host for a value.
CALLBACKS = ("pure_callback", "io_callback")


def sub_jaxprs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def calls_host(eqn: Any) -> bool:
    """Whether an equation (of a program or a jaxpr), or one inside it, calls the host."""
    return eqn.primitive.name in CALLBACKS or any(
        calls_host(inner) for jaxpr in sub_jaxprs(eqn.params) for inner in jaxpr.eqns
    )


def with_one_test(eqn: Any) -> core.ClosedJaxpr | None:
    """A loop of many rows, each with a test of its own (``vmap`` makes it), with one test for all.

    It goes on while any row does, and rows that do not stay as they are: what JAX compiles.

    Returns:
      From the operands of the equation to its results; None where nothing is to be done.
    """
    if eqn.primitive.name != "while" or not eqn.params["cond_jaxpr"].out_avals[0].shape:
        return None
    if any(varying(var.aval) for var in eqn.invars):
        return None  # what is held back over a mesh axis has another type than before
    test, body = (core.jaxpr_as_fun(eqn.params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
    num_tests = eqn.params["cond_nconsts"]
    num_consts = num_tests + eqn.params["body_nconsts"]

    def run(*operands: jax.Array) -> list[jax.Array]:
        tests, consts = operands[:num_tests], operands[num_tests:num_consts]

        def turn(carry: list[jax.Array]) -> list[jax.Array]:
            (goes_on,), after = test(*tests, *carry), body(*consts, *carry)
            rows = lambda a: lax.expand_dims(goes_on, range(goes_on.ndim, a.ndim))
            return [jnp.where(rows(a), a, b) for a, b in zip(after, carry, strict=True)]

        return lax.while_loop(
            lambda carry: jnp.any(test(*tests, *carry)[0]), turn, list(operands[num_consts:])
        )

    return jax.make_jaxpr(run)(*(var.aval for var in eqn.invars))
