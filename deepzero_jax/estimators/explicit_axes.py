"""Estimates from arrays that are split over explicit mesh axes.

An estimate takes channels and coordinates out of arrays, and JAX refuses many such operations
on arrays whose types say how they are split. Inside of an estimate those axes are automatic.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.types import Array, Key, Params, PyTree

Estimate = Callable[[Loss, Params, Key | None, PyTree | None], tuple[ValueAndAux, Params]]


def estimated(
    estimate: Estimate, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
) -> tuple[ValueAndAux, Params]:
    """``estimate`` of these, with automatic axes where an input is split over explicit ones.

    Value and aux come out split as the loss gives them, gradients as the parameters are.
    """
    arrays = loss.arrays()
    mesh = _splitting_mesh((params, arrays, key, coordinates))
    if mesh is None:
        return estimate(loss, params, key, coordinates)
    inputs = (params, list(map(jnp.asarray, arrays)), key, coordinates)
    head = lambda params, arrays: loss.with_arrays(arrays).value_and_aux(params)
    traced, head_shapes = jax.make_jaxpr(head, return_shape=True)(*inputs[:2])
    if _splitting_mesh(traced.consts):
        # Such an array from outside of the loss stays as it is, and so must all others.
        return estimate(loss, params, key, coordinates)

    def call(
        params: Params, arrays: list[Array], key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        return estimate(loss.with_arrays(arrays), params, key, coordinates)

    def own(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        sharding = leaf.sharding
        on_mesh = isinstance(sharding, NamedSharding) and not sharding.mesh.empty
        return sharding if on_mesh else NamedSharding(mesh, PartitionSpec())

    outputs = jax.tree.map(own, (head_shapes, jax.tree.map(jax.typeof, params)))
    axes = tuple(
        n for n, t in zip(mesh.axis_names, mesh.axis_types, strict=True) if t == AxisType.Explicit
    )
    automatic: Any = auto_axes(call, axes=axes, out_sharding=outputs)
    return automatic(*inputs)


def _splitting_mesh(tree: PyTree) -> jax.sharding.AbstractMesh | None:
    """The mesh over whose explicit axes a leaf is split, or None."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array):
            continue
        sharding = jax.typeof(leaf).sharding
        is_split = any(part is not None for part in sharding.spec)
        if is_split and AxisType.Explicit in sharding.mesh.axis_types:
            return sharding.mesh
    return None
