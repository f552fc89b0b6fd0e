"""Estimates inside ``shard_map``: each device may have a problem of its own, or share one.

A device that moves a coordinate of its shard of the parameters, while another moves one of
its own and both sum up one loss, would take the difference for its own doing.
"""

from collections.abc import Iterator

import jax
from jax import lax
from jax.extend import core

from deepzero_jax.estimators.loss import Loss
from deepzero_jax.jaxprs import sub_jaxprs
from deepzero_jax.types import Key, Params, PyTree
from deepzero_jax.varying import vary, varying

_SILENT = {"axis_index", "pvary", "pcast"}  # they name an axis and send nothing over it


def manual_axes() -> tuple[str, ...]:
    """Mesh axes over which the surrounding ``shard_map`` has cut its arguments."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def params_on_device(
    loss: Loss, params: Params, coordinates: PyTree | None, key: Key | None
) -> Params:
    """The parameters, marked as varying over the axes over which devices have other problems.

    Args:
      loss: to be differentiated.
      params: pytree of arrays.
      coordinates: likewise, or None.
      key: a PRNG key, or None.

    Raises:
      ValueError: devices that share a loss and would perturb it at the same time.
    """
    if not (axes := manual_axes()):
        return params
    call = lambda p, arrays: loss.scalar(loss.with_arrays(arrays).output(p))
    closed, value = jax.make_jaxpr(call, return_shape=True)(params, loss.arrays())
    communicating = set(_communicating_axes(closed.jaxpr))
    own = varying(value)
    for name, tree in {"params": params, "coordinates": coordinates, "key": key}.items():
        differing = frozenset().union(*map(varying, jax.tree.leaves(tree)))
        for axis in communicating & set(axes):
            _check_axis(axis, name, differing)
        own |= differing
    return jax.tree.map(lambda leaf: vary(leaf, own), params)


def _check_axis(axis: str, name: str, differing: frozenset[str]) -> None:
    if axis not in varying(lax.axis_index(axis)):
        raise ValueError(
            f"the loss communicates over the mesh axis {axis!r} inside "
            "shard_map(check_vma=False), where nothing says whether params are the same "
            "on every device; leave check_vma at True"
        )
    if axis in differing:
        raise ValueError(
            f"the loss communicates over the mesh axis {axis!r}, over which {name} "
            "differ: every device would perturb the one loss at the same time. Give "
            f"shard_map the whole {name} (in_specs=PartitionSpec()); dz.sharded spreads "
            "the work over devices"
        )


def _communicating_axes(jaxpr: core.Jaxpr) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name not in _SILENT:
            for parameter in ("axes", "axis_name"):
                names = eqn.params.get(parameter, ())
                names = names if isinstance(names, tuple | list) else (names,)
                yield from (name for name in names if isinstance(name, str))
        for inner in sub_jaxprs(eqn.params):
            yield from _communicating_axes(inner)
