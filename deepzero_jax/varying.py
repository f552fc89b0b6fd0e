"""What a type says of a mesh: axes over which values vary, and those that split an array."""

from typing import TypeVar

import jax
from jax import lax
from jax.core import ShapedArray
from jax.sharding import AxisType, reshard

from deepzero_jax.types import Array, PyTree

Kind = TypeVar("Kind", bound=Array)


def vary(array: Kind, axes: frozenset[str]) -> Kind:
    """An array, marked as varying over some axes besides its own."""
    more = tuple(sorted(axes - varying(array)))
    return lax.pcast(array, more, to="varying") if more else array


def varying_like(array: PyTree, result: PyTree) -> PyTree:
    """``array``, marked as varying over the mesh axes over which ``result`` varies.

    Args:
      array: pytree of arrays, the start of a loop.
      result: pytree of arrays or their shapes, what an iteration makes of it.
    """
    return jax.tree.map(lambda start, stop: vary(start, varying(stop)), array, result)


def varying_axes(tree: PyTree) -> frozenset[str]:
    """Mesh axes over which any leaf of a tree is known to vary."""
    return frozenset().union(*map(varying, jax.tree.leaves(tree)))


def varying(value: Array | jax.ShapeDtypeStruct | ShapedArray) -> frozenset[str]:
    """Mesh axes over which a value, or one of that type, is known to vary."""
    is_type = isinstance(value, jax.ShapeDtypeStruct | ShapedArray)
    aval = value if is_type else jax.typeof(value)
    kind = getattr(aval, "manual_axis_type", None)
    found = getattr(aval, "vma", None) if kind is None else kind.varying
    return frozenset(found or ())


def split_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """An array, split as another one where the types of arrays say so: along explicit axes."""
    wanted = jax.typeof(other).sharding
    explicit = AxisType.Explicit in wanted.mesh.axis_types
    return reshard(array, wanted) if explicit and jax.typeof(array).sharding != wanted else array
