"""Calls of the host from inside a program."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.core import Tracer
from jax.extend.core import Primitive

from deepzero_jax.types import Array, PyTree
from deepzero_jax.varying import vary, varying_axes


def call_host(fun: Callable[..., Any], shapes: PyTree, *operands: PyTree) -> PyTree:
    """What a function on the host answers, in a callback that ``vmap`` widens by axes in front.

    It is marked as varying over the mesh axes over which the operands do, which JAX leaves open.

    Args:
      fun: hashable; takes NumPy arrays like the operands.
      shapes: pytree of ``jax.ShapeDtypeStruct``, of what it returns.
      operands: pytrees of arrays.
    """
    leaves, treedef = jax.tree.flatten(shapes)
    return treedef.unflatten(_on_all_devices(_called, (fun, tuple(leaves)), operands))


def bind_callback(
    primitive: Primitive, params: Mapping[str, Any], operands: Sequence[jax.typing.ArrayLike]
) -> list[jax.Array]:
    """Evaluates a callback of a traced program once more."""
    return _on_all_devices(_bound, (primitive, tuple(params.items())), tuple(operands))


def _called(
    fun: Callable[..., Any], shapes: tuple[jax.ShapeDtypeStruct, ...], operands: PyTree
) -> Sequence[Array]:
    found = jax.pure_callback(fun, list(shapes), *operands, vmap_method="expand_dims")
    axes = varying_axes(operands)
    return [vary(answer, axes) for answer in found]


def _bound(
    primitive: Primitive, params: tuple[tuple[str, Any], ...], operands: tuple[jax.Array, ...]
) -> Sequence[Array]:
    return primitive.bind(*operands, **dict(params))


def _on_all_devices(
    ask: Callable[..., Sequence[Array]], known: tuple[Any, ...], operands: PyTree
) -> list[jax.Array]:
    """The answers of ``ask(*known, operands)``, where other programs take them.

    The result of a callback lies on the first device alone; behind a barrier of the same program
    it lies where results do.
    """
    if any(isinstance(operand, Tracer) for operand in jax.tree.leaves(operands)):
        # A function of its own, as what JAX keeps of a trace would keep the black box alive.
        return jax.jit(partial(_behind_a_barrier, ask, known), inline=True)(operands)
    return _compiled(ask, known, operands)


def _behind_a_barrier(
    ask: Callable[..., Sequence[Array]], known: tuple[Any, ...], operands: PyTree
) -> list[jax.Array]:
    return lax.optimization_barrier(list(ask(*known, operands)))


_compiled = jax.jit(_behind_a_barrier, static_argnums=(0, 1), inline=True)
