"""Collectives: what devices, or rows of a named ``vmap``, sum, exchange or compare.

Linear ones act on the delta. Whether one moves is decided while tracing, so every device takes
part in the same collectives.
"""

from dataclasses import replace

from jax import lax

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import Channel, Delta, dense, minus
from deepzero_jax.varying import vary, varying


def _axes(at: Application) -> tuple[str | int, ...]:
    """Names of the axes; numbers of those of the operand that ``vmap`` put in their place."""
    axes = at.params["axes"] if "axes" in at.params else at.params["axis_name"]
    return axes if isinstance(axes, tuple) else (axes,)


@rule("pvary")
def pvary(at: Application, deltas: list[Delta]) -> list[Delta]:
    """A difference may vary over the axes of a mesh already, where its base does not."""
    axes, (delta,) = varying(at.outputs[0]), deltas
    if isinstance(delta, Channel):
        return [replace(delta, array=vary(delta.array, axes))]
    return [vary(dense(delta, at.bases[0]), axes)]


@rule("psum", "psum_invariant", "ppermute", "pbroadcast", takes="channel")
def number_by_number(at: Application, delta: Channel) -> Channel | None:
    """Linear; a channel survives where its index is known to be the same on all devices."""
    if not set(_axes(at)) <= varying(at.bases[0]) - varying(delta.index):
        return None
    return Channel(at.eqn.primitive.bind(delta.array, **at.params), delta.axis, delta.index)


@rule("all_gather", "all_gather_invariant", "all_to_all", "reduce_scatter", takes="channel")
def rearranged(at: Application, delta: Channel) -> None:
    """Linear; a channel becomes dense."""


@rule("pmax", "pmin", real=True)
def extremum(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Δ max aᵢ = max((aᵢ − m) + Δaᵢ), m the old maximum; a minimum likewise."""
    base, (delta,) = at.bases[0], deltas
    output = lax.expand_dims(at.outputs[0], [a for a in _axes(at) if isinstance(a, int)])
    return [at.eqn.primitive.bind(minus(base, output) + dense(delta, base), **at.params)]
