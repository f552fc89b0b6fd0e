"""Calls of the host from inside a program."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax import lax
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
    return treedef.unflatten(_called(fun, tuple(leaves), operands))


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _called(
    fun: Callable[..., Any], shapes: tuple[jax.ShapeDtypeStruct, ...], operands: PyTree
) -> list[jax.Array]:
    found = jax.pure_callback(fun, list(shapes), *operands, vmap_method="expand_dims")
    axes = varying_axes(operands)
    return _on_all_devices([vary(answer, axes) for answer in found])


def bind_callback(
    primitive: Primitive, params: Mapping[str, Any], operands: Sequence[jax.typing.ArrayLike]
) -> list[jax.Array]:
    """Evaluates a callback of a traced program once more."""
    return _bound(primitive, tuple(params.items()), tuple(operands))


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _bound(
    primitive: Primitive, params: tuple[tuple[str, Any], ...], operands: tuple[jax.Array, ...]
) -> list[jax.Array]:
    return _on_all_devices(primitive.bind(*operands, **dict(params)))


def _on_all_devices(answers: Sequence[Array]) -> list[jax.Array]:
    # The result of a callback lies on the first device, and no other program of several devices
    # takes it; behind a barrier of the same program it lies where results do.
    return lax.optimization_barrier(list(answers))
