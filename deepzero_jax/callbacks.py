"""Calls of the host from inside a program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from deepzero_jax.failures import asked_by_each, asked_by_one, is_deferring
from deepzero_jax.types import Array, PyTree
from deepzero_jax.varying import vary, varying_axes

# Platforms on which JAX has callbacks that every device makes.
_PARTITIONED = {"cpu", "cuda", "rocm"}


def call_host(fun: Callable[..., Any], shapes: PyTree, *operands: PyTree) -> PyTree:
    """What a function on the host answers, in a callback that ``vmap`` widens by axes in front.

    It is marked as varying over the mesh axes over which the operands do, which JAX leaves open.
    Where it raises, every device of the program fails.

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


@dataclass(frozen=True)
class _Flat:
    """A function of pytrees, as one of their leaves."""

    callback_func: Callable[..., Any]
    treedef: PyTree

    def __call__(self, *leaves: np.ndarray) -> list[np.ndarray]:
        return jax.tree.leaves(self.callback_func(*self.treedef.unflatten(leaves)))


def _called(
    fun: Callable[..., Any],
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    deferred: bool,
    operands: PyTree,
) -> Sequence[Array]:
    leaves, treedef = jax.tree.flatten(operands)
    found = _call_p.bind(*leaves, callback=_Flat(fun, treedef), shapes=shapes, deferred=deferred)
    axes = varying_axes(operands)
    return [vary(answer, axes) for answer in found]


def _bound(
    primitive: Primitive,
    params: tuple[tuple[str, Any], ...],
    deferred: bool,
    operands: tuple[jax.Array, ...],
) -> Sequence[Array]:
    known = dict(params) | ({"deferred": deferred} if primitive is _call_p else {})
    return primitive.bind(*operands, **known)


def _on_all_devices(
    ask: Callable[..., Sequence[Array]], known: tuple[Any, ...], operands: PyTree
) -> list[jax.Array]:
    """The answers of ``ask(*known, deferred, operands)``, where other programs take them.

    The result of a callback lies on the first device alone; behind a barrier of the same program
    it lies where results do.
    """
    if any(isinstance(operand, Tracer) for operand in jax.tree.leaves(operands)):
        # A function of its own, as what JAX keeps of a trace would keep the black box alive.
        behind = partial(_behind_a_barrier, ask, (*known, is_deferring()))
        return jax.jit(behind, inline=True)(operands)
    return _compiled(ask, (*known, False), operands)


def _behind_a_barrier(
    ask: Callable[..., Sequence[Array]], known: tuple[Any, ...], operands: PyTree
) -> list[jax.Array]:
    return lax.optimization_barrier(list(ask(*known, operands)))


_compiled = jax.jit(_behind_a_barrier, static_argnums=(0, 1), inline=True)


# What ``jax.pure_callback`` is, but for what comes of an error where there are several devices.
_call_p = Primitive("pure_callback")
_call_p.multiple_results = True


@_call_p.def_impl
def _evaluate(
    *operands: jax.Array, callback: _Flat, shapes: Sequence[jax.ShapeDtypeStruct], deferred: bool
) -> list[jax.Array]:
    del deferred
    return jax.pure_callback(callback, list(shapes), *operands, vmap_method="expand_dims")


@_call_p.def_abstract_eval
def _types(
    *operands: ShapedArray, shapes: Sequence[jax.ShapeDtypeStruct], **params: Any
) -> list[ShapedArray]:
    del operands, params
    return [ShapedArray(shape.shape, shape.dtype) for shape in shapes]


def _widened(
    operands: Sequence[jax.Array],
    axes: Sequence[int | None],
    *,
    shapes: Sequence[jax.ShapeDtypeStruct],
    **params: Any,
) -> tuple[Sequence[jax.Array], list[int]]:
    pairs = list(zip(operands, axes, strict=True))
    (length, *_) = [operand.shape[axis] for operand, axis in pairs if axis is not None]
    wide = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    more = tuple(jax.ShapeDtypeStruct((length, *s.shape), s.dtype) for s in shapes)
    return _call_p.bind(*wide, shapes=more, **params), [0] * len(more)


def _refuse_derivative(*args: Any, **params: Any) -> Any:
    del args, params
    raise ValueError("callbacks do not support JVP: use jax.custom_jvp to differentiate them")


def _lowered(ctx: Any, *operands: Any, deferred: bool, **params: Any) -> Any:
    shares = ctx.module_context.axis_context
    num_devices = getattr(shares, "num_devices", 1)
    has_all = set(ctx.module_context.platforms) <= _PARTITIONED
    if deferred and hasattr(shares, "manual_axes"):
        ask = asked_by_each
    elif num_devices > 1 and has_all:
        ask = partial(asked_by_one, num_devices)
    else:
        ask = _evaluated
    call = lambda *arrays: ask(params["callback"], params["shapes"], arrays)
    return mlir.lower_fun(call, multiple_results=True)(ctx, *operands)


def _evaluated(
    callback: _Flat, shapes: Sequence[jax.ShapeDtypeStruct], operands: Sequence[jax.Array]
) -> list[jax.Array]:
    return _evaluate(*operands, callback=callback, shapes=shapes, deferred=False)


batching.primitive_batchers[_call_p] = _widened
ad.primitive_jvps[_call_p] = _refuse_derivative
mlir.register_lowering(_call_p, _lowered, cacheable=False)
