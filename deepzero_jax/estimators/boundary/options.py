"""Which options of a differentiable function go together, and which numbers have slopes."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox import BlackBox
from deepzero_jax.counts import check_count
from deepzero_jax.estimators.contract import DirectionEstimator

if TYPE_CHECKING:
    from deepzero_jax.estimators.boundary.function import Differentiable


def check_options(given: "Differentiable") -> None:
    """Raises ValueError where options do not go together."""
    settings = given.settings
    directions = isinstance(given.estimator, DirectionEstimator)
    if settings["reuse"] == "split":
        raise ValueError('reuse="split" is of losses that are cut; give "difference" or "none"')
    if settings.get("ranked"):
        raise ValueError(
            "ranked=True is of a loss: the slopes of outputs have no places; leave it out, or take "
            "dz.value_and_grad of the whole loss"
        )
    if given.structure is not None and (
        directions or given.basis is not None or given.num_coordinates is not None
    ):
        raise ValueError(
            "structure moves all coordinates, colour by colour: it goes with cge(), without "
            "basis= and num_coordinates="
        )
    if given.check and given.structure is None:
        raise ValueError("check=True is of a structure: give structure=")
    if given.check and not isinstance(given.fun, BlackBox):
        raise ValueError(
            "check=True asks a black box twice more; compare a gradient of a traceable function "
            "with that of jax.grad"
        )
    if given.record is not None and not (given.samples and isinstance(given.fun, BlackBox)):
        raise ValueError("a record is of a black box with samples=True")
    if given.num_coordinates is not None:
        if directions:
            raise ValueError("num_coordinates is of cge(); rge() has num_directions")
        check_count("num_coordinates", given.num_coordinates)
    if given.basis is not None and (
        given.basis.ndim != 2 or len(given.basis) == 0 or not np.isfinite(given.basis).all()
    ):
        raise ValueError(f"basis must be finite numbers [k, m], got {list(given.basis.shape)}")
    if isinstance(given.fun, BlackBox) and given.samples and not given.fun.options.batched:
        raise ValueError(
            "a black box with batched=False is one function of all its inputs: give samples=False"
        )


def check_real(kind: Literal["input", "output"], dtypes: Iterable[np.dtype]) -> None:
    """Raises TypeError where numbers that a derivative is wanted of are complex."""
    for dtype in dtypes:
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"dz.differentiable takes slopes of real numbers, and an {kind} is of type "
                f"{dtype}: make its real and its imaginary part two {kind}s (jnp.real, jnp.imag)"
            )
