"""An estimator over many devices, each with a shard of the coordinates or directions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, cast

import jax
from jax import lax
from jax.extend import core
from jax.sharding import Mesh, PartitionSpec

from deepzero_jax.blackbox import asks_host
from deepzero_jax.estimators.contract import (
    CoordinateEstimator,
    DirectionEstimator,
    Estimator,
    Part,
)
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.failures import deferring, raise_together
from deepzero_jax.pages import see
from deepzero_jax.sharding import COORDINATES, gather_values, shard_coordinates
from deepzero_jax.types import Array, Key, Params, PyTree

_EVERYWHERE, _SHARDED = PartitionSpec(), PartitionSpec(COORDINATES)
_Function = TypeVar("_Function", bound=Callable[..., PyTree])


def sharded(estimator: Estimator, mesh: Mesh) -> Estimator:
    """The same estimator, its work spread over the coordinates axis of a mesh.

    Every device runs the base pass itself and its shard of the perturbed ones; of those
    only the estimates travel, 4 bytes a coordinate (for random directions, one gradient).
    The result does not depend on the number of devices, but for the rounding of chunks.

    Args:
      estimator: from ``cge``, ``rge`` or ``first_order`` (which has nothing to spread: every
        device computes all of it).
      mesh: from ``sharding.make_mesh``.

    Returns:
      An ``Estimator`` for ``value_and_grad``, to be used under ``jit``.

    Raises:
      ValueError: a mesh without the axis.

    **Cost**: one query a device, and its shard of the others.

    Example:
      >>> import deepzero_jax as dz
      >>> import jax.numpy as jnp
      >>> from deepzero_jax.sharding import make_mesh
      >>> vg = dz.value_and_grad(jnp.sum, dz.sharded(dz.cge(), make_mesh(1)))
      >>> jax.jit(vg)(jnp.ones(3))[1].round(3).tolist()
      [1.0, 1.0, 1.0]
    """
    if COORDINATES not in mesh.shape:
        raise ValueError(
            f"the mesh must have an axis {COORDINATES!r}, got axes {mesh.axis_names}; take it from "
            f"dz.sharding.make_mesh{see('mesh')}"
        )
    num_devices = mesh.shape[COORDINATES]
    if num_devices == 1:
        return estimator
    alone = estimator.num_queries
    # The base pass is run, and charged, on every device.
    num_queries = lambda num_coordinates: alone(num_coordinates) + num_devices - 1
    if isinstance(estimator, CoordinateEstimator):
        values = _SharedValues(estimator, mesh, num_devices)
        settings = {**estimator.settings, "num_devices": num_devices}
        return replace(estimator, values=values, settings=settings, num_queries=num_queries)
    if isinstance(estimator, DirectionEstimator):
        summand = _SharedSum(estimator, mesh, num_devices)
        settings = {**estimator.settings, "num_devices": num_devices}
        return replace(estimator, summand=summand, settings=settings, num_queries=num_queries)
    return estimator


@dataclass(frozen=True)
class _SharedValues:
    """The values of a coordinate-wise estimator, each device finding those of its shard."""

    estimator: CoordinateEstimator
    mesh: Mesh
    num_devices: int

    def __call__(
        self, loss: Loss, params: Params, coordinates: PyTree
    ) -> tuple[ValueAndAux, PyTree]:
        def on_device(
            params: Params, arrays: list[Array], shard: PyTree
        ) -> tuple[ValueAndAux, PyTree]:
            own = jax.tree.map(lambda indices: indices[0], shard)
            head, values = self.estimator.values(loss.with_arrays(arrays), params, own)
            return head, jax.tree.map(lambda v: v[None], values)

        shards = shard_coordinates(params, coordinates, self.num_devices)
        specs = (_EVERYWHERE, _EVERYWHERE, _SHARDED)
        run = _over_devices(on_device, self.mesh, specs, (_EVERYWHERE, _SHARDED))
        head, values = run(params, loss.arrays(), shards)
        return head, gather_values(coordinates, values)


@dataclass(frozen=True)
class _SharedSum:
    """The sum of a random estimator, each device adding up a part of its terms."""

    estimator: DirectionEstimator
    mesh: Mesh
    num_devices: int

    def __call__(
        self,
        loss: Loss,
        params: Params,
        key: Key,
        coordinates: PyTree | None,
        part: Part,
    ) -> tuple[ValueAndAux, Params]:
        def on_device(
            params: Params, arrays: list[Array], key: Key, coordinates: PyTree | None
        ) -> tuple[ValueAndAux, Params]:
            own = Part(
                part.number(lax.axis_index(COORDINATES)),
                self.num_devices * part.of,
                lambda values: lax.all_gather(values, COORDINATES),
            )
            loss_here = loss.with_arrays(arrays)
            head, grads = self.estimator.summand(loss_here, params, key, coordinates, own)
            return head, lax.psum(grads, COORDINATES)

        run = _over_devices(on_device, self.mesh, _EVERYWHERE, _EVERYWHERE)
        return run(params, loss.arrays(), key, coordinates)


def _over_devices(
    function: _Function, mesh: Mesh, in_specs: PyTree, out_specs: PyTree
) -> _Function:
    # A callback needs every axis of the mesh to be manual; one of a single device may well be.
    names = {name for name in mesh.axis_names if name == COORDINATES or mesh.shape[name] == 1}
    return jax.shard_map(
        cast(_Function, partial(_failing_together, function)),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=names,
        check_vma=False,
    )


def _failing_together(function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """The results of a function on each device; where the host fails one of them, all fail."""
    with deferring():
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    results = core.jaxpr_as_fun(closed)(*jax.tree.leaves(args))
    if asks_host(closed.jaxpr.eqns):
        results = raise_together(results, COORDINATES)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)
