"""An estimator over many devices: each takes its share of the coordinates or directions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from deepzero_jax.coordinates import all_coordinates, scatter
from deepzero_jax.estimators.contract import Estimator, Loss
from deepzero_jax.sharding import COORDINATES, collect, deal

PyTree = Any


def sharded(estimator: Estimator, mesh: Mesh) -> Estimator:
    """The same estimator, its work dealt out over the coordinates axis of a mesh.

    Every device runs the base pass itself and its share of the perturbed ones; of those
    only the estimates travel, 4 bytes a coordinate (for random directions, one gradient).
    The result does not depend on the number of devices, but for the rounding of chunks.

    Args:
      estimator: from ``cge``, ``rge`` or ``first_order`` (which has no shares: every
        device computes all of it).
      mesh: from ``sharding.make_mesh``.

    Returns:
      An ``Estimator`` for ``value_and_grad``, to be used under ``jit``.

    **Cost**: one query a device, and its share of the others.

    Example:
      >>> import deepzero_jax as dz
      >>> from deepzero_jax.sharding import make_mesh
      >>> vg = dz.value_and_grad(jnp.sum, dz.sharded(dz.cge(), make_mesh(1)))
      >>> jax.jit(vg)(jnp.ones(3))[1].round(3).tolist()
      [1.0, 1.0, 1.0]
    """
    num_devices = mesh.shape[COORDINATES]
    if num_devices == 1 or (estimator.values is None and estimator.summand is None):
        return estimator
    everywhere, dealt = PartitionSpec(), PartitionSpec(COORDINATES)

    def over_devices(function: Any, in_specs: Any, out_specs: Any) -> Any:
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names={COORDINATES},
            check_vma=False,
        )

    def from_values(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        params = jax.tree.map(jnp.asarray, params)
        if coordinates is None:
            coordinates = all_coordinates(params)

        def share(params: PyTree, args: Any, hand: PyTree) -> Any:
            own = jax.tree.map(lambda indices: indices[0], hand)
            head, values = estimator.values(  # pyright: ignore[reportOptionalCall]
                loss._replace(args=args), params, None, own
            )
            return head, jax.tree.map(lambda v: v[None], values)

        run = over_devices(share, (everywhere, everywhere, dealt), (everywhere, dealt))
        head, values = run(params, loss.args, deal(params, coordinates, num_devices))
        grads = jax.tree.map(scatter, params, coordinates, collect(coordinates, values))
        return head, grads

    def from_summands(
        loss: Loss, params: PyTree, key: Any, coordinates: PyTree | None
    ) -> tuple[tuple[jax.Array, Any], PyTree]:
        params = jax.tree.map(jnp.asarray, params)

        def share(params: PyTree, args: Any, key: Any, coordinates: PyTree | None) -> Any:
            head, part = estimator.summand(  # pyright: ignore[reportOptionalCall]
                loss._replace(args=args),
                params,
                key,
                coordinates,
                lax.axis_index(COORDINATES),
                num_devices,
            )
            return head, lax.psum(part, COORDINATES)

        run = over_devices(share, everywhere, everywhere)
        return run(params, loss.args, key, coordinates)

    return estimator._replace(estimate=from_values if estimator.values else from_summands)
