"""The finite-difference step: what is allowed, and the step of each leaf."""

import math
import numbers
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from deepzero_jax.estimators.rounding import is_swallowed
from deepzero_jax.registry import nearest
from deepzero_jax.types import Array

# A positive finite number, or a traced scalar (a schedule).
Step = float | jax.Array
# One step for all leaves, or ``{leaf path: step}``.
Smoothing = Step | Mapping[str, Step]


def check_smoothing(smoothing: object) -> None:
    """Raises ValueError unless ``smoothing`` is a step, or ``{leaf path: step}``.

    A step is a positive number that float32 holds to full precision, or a traced scalar.

    Example:
      >>> check_smoothing(1e-50)
      Traceback (most recent call last):
      ValueError: smoothing must lie between 9.86e-32 and 1.7e+38, which float32 holds ...
    """
    as_smoothing(smoothing)


def as_smoothing(smoothing: object) -> Smoothing:
    """Checks ``smoothing`` as ``check_smoothing`` does; known numbers become floats."""
    if not isinstance(smoothing, Mapping):
        return _as_step(smoothing, "smoothing")
    return {str(path): _as_step(step, f"smoothing[{path!r}]") for path, step in smoothing.items()}


def _as_step(step: object, name: str) -> Step:
    if isinstance(step, Tracer):
        if step.shape != () or not jnp.issubdtype(step.dtype, jnp.floating):
            raise ValueError(
                f"a traced {name} must be a floating-point scalar, "
                f"got {step.dtype}{list(step.shape)}"
            )
        return step
    number = _number(step)
    if number is None or not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number, got {step!r}")
    _check_range(number, np.dtype(np.float32), name)
    return number


def _number(value: object) -> float | None:
    """A Python or NumPy number, or an array of one; booleans are none."""
    if isinstance(value, np.ndarray | jax.Array) and value.shape == ():
        value = np.asarray(value)[()]
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, numbers.Real) or (
        isinstance(value, np.generic) and jnp.issubdtype(value.dtype, jnp.floating)
    ):
        return float(value)
    return None


def _check_range(step: float, dtype: np.dtype, name: str) -> None:
    """Outside these limits the step, or twice the step, is not what it was meant to be."""
    limits = jnp.finfo(dtype)
    # The difference that it makes, in float32 at least, is smaller still, and is to be held too.
    wide = jnp.finfo(jnp.promote_types(dtype, jnp.float32))
    smallest = max(float(limits.tiny), float(wide.tiny / wide.eps))
    largest = float(limits.max) / 2
    if not smallest <= step <= largest:
        raise ValueError(
            f"{name} must lie between {smallest:.3g} and {largest:.3g}, which {dtype} holds to "
            f"full precision, got {step!r}"
        )


def leaf_steps(
    smoothing: Smoothing, paths: Sequence[str], dtypes: Sequence[np.dtype]
) -> list[Step]:
    """The step of each leaf, as a parameter of its dtype takes it.

    Args:
      smoothing: one for all, or ``{leaf path: step}`` with every leaf.
      paths: of the leaves.
      dtypes: of the leaves.

    Raises:
      ValueError: unknown or missing leaf paths, or a step that a dtype cannot hold.
    """
    if isinstance(smoothing, Mapping):
        for path in smoothing:
            if path not in paths:
                raise ValueError(
                    f"smoothing names a leaf {path!r} that params do not have, "
                    f"{nearest(path, paths)}"
                )
        if missing := [path for path in paths if path not in smoothing]:
            raise ValueError(f"smoothing must name every leaf of params; {missing[:3]} are missing")
        steps = [smoothing[path] for path in paths]
    else:
        steps = [smoothing] * len(paths)
    return [
        _taken(step, dtype, f"smoothing of params[{path!r}]")
        for step, path, dtype in zip(steps, paths, dtypes, strict=True)
    ]


def _taken(step: Step, dtype: np.dtype, name: str) -> Step:
    if isinstance(step, jax.Array):
        return step.astype(dtype)
    _check_range(step, dtype, name)
    return float(np.asarray(step, dtype))


# What there is beside a longer step.
PROPAGATE = 'take reuse="difference", which subtracts nothing'


def check_resolution(
    steps: Sequence[Step],
    paths: Sequence[str],
    dtypes: Sequence[np.dtype],
    leaves: Sequence[Array] | None = None,
    otherwise: str = PROPAGATE,
    lengths: Sequence[jax.Array | float] | None = None,
) -> None:
    """Raises ValueError where a parameter would not move by its step: one around 1, or its own.

    For ways of passing that evaluate at the moved parameters and subtract: they would take
    the rounding of the loss, or nothing at all, for its slope.

    Args:
      steps: of the leaves.
      paths: of the leaves.
      dtypes: of the leaves.
      leaves: their values, of which those that are known are looked at.
      otherwise: what else there is to do, if anything.
      lengths: of what steps are multiplied by, in a random direction, see ``typical_lengths``.
    """
    lengths = [1.0] * len(steps) if lengths is None else lengths
    for step, path, dtype in zip(steps, paths, dtypes, strict=True):
        resolution = float(jnp.finfo(dtype).eps)
        if isinstance(step, float) and step < resolution:
            raise ValueError(
                f"smoothing {step:.3g} is below the resolution of params[{path!r}], {dtype} "
                f"({resolution:.3g} around 1): subtracting two evaluations would see no "
                f"difference. Choose smoothing of at least {resolution:.3g}"
                + (f", or {otherwise}" if otherwise else "")
            )
    for step, path, leaf, length in zip(steps, paths, leaves or (), lengths, strict=False):
        if any(isinstance(one, Tracer) for one in (step, leaf, length)) or not leaf.size:
            continue
        values = np.asarray(leaf).reshape(-1)
        stuck = values[is_swallowed(values, np.asarray(float(step) * float(length), values.dtype))]
        if stuck.size:
            largest = stuck[np.argmax(np.abs(stuck))]
            raise ValueError(
                f"smoothing {float(step):.3g} does not move params[{path!r}] where it is "
                f"{float(largest):.3g}, in {values.dtype}: choose smoothing of at least "
                f"{float(jnp.finfo(values.dtype).eps) * abs(float(largest) / float(length)):.1g}, "
                + (f"scale the parameter, or {otherwise}" if otherwise else "or scale it")
            )
