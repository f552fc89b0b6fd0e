"""What stands inside the equations of a traced function."""

from collections.abc import Iterator
from typing import Any

from jax.extend import core

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
