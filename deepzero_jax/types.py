"""Names for what the package passes about, each defined once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# A nest of dictionaries, tuples and lists with arrays for leaves.
PyTree = Any
# Parameters: a PyTree of floating-point arrays.
Params = Any
# A typed PRNG key, consumed once.
Key = jax.Array
# What JAX or NumPy computes with.
Array = jax.Array | np.ndarray
# {leaf path: number}, a leaf path as ``coordinates.leaf_paths`` gives it.
PerLeaf = Mapping[str, float]
# Takes a line for the person who watches: ``print``, or a test's list.
Log = Callable[[str], None]
