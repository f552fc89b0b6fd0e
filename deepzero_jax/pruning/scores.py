"""Scores of parameters at initialisation: how much pruning each would change gradient flow."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import core

from deepzero_jax.coordinates import check_float_leaves, leaf_paths
from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.estimators import BatchSize, Estimator, rge, value_and_grad
from deepzero_jax.estimators.smoothing import as_smoothing, check_resolution, leaf_steps
from deepzero_jax.keys import check_key
from deepzero_jax.registry import Registry
from deepzero_jax.types import Key, Params, PyTree

Variant = Literal["shared", "independent", "released"]
ScalarLoss = Callable[..., jax.Array]


def zo_grasp_scores(
    fun: ScalarLoss,
    params: Params,
    *args: PyTree,
    key: Key,
    smoothing: float = 5e-3,
    num_directions: int = 192,
    step: float = 5e-3,
    variant: Variant = "shared",
    batch_size: BatchSize = "auto",
) -> PyTree:
    r"""ZO-GraSP: $S = -θ ⊙ (\hat g(θ + s\,\hat g(θ)) - \hat g(θ)) / s$ from queries alone.

    The highest are pruned first: they lose least gradient flow (GraSP, Wang et al. 2020).

    Args:
      fun: ``fun(params, *args) -> scalar loss``.
      params: pytree of floating-point arrays.
      *args: passed on to ``fun``.
      key: a PRNG key, consumed.
      smoothing: μ of the random gradient estimates.
      num_directions: q, random directions of each of the two estimates.
      step: s, of the step s ĝ along the estimated gradient. The scores of a loss that is so many
        times another are those of another step.
      variant: of the directions. ``"shared"``: the same for both estimates, so that their
        difference is not noise of two draws. ``"independent"``. ``"released"``: as in the
        authors' code, independent, normalised by tensor, scaled by ``smoothing`` twice.
      batch_size: perturbed passes side by side, or ``"auto"``.

    Returns:
      Scores, a pytree like ``params``; parameters of 16 bits are scored in float32, and ``fun``
      is given these: where it insists on a type, it casts them itself (``w.astype(x.dtype)``).
      Under ``jit`` NaN where no number of them would be right, see below.

    Raises:
      TypeError: a leaf of params that is no array of floating-point numbers.
      ValueError: an unknown variant, ``smoothing`` or ``step`` not above 0, no key, a
        ``smoothing`` that does not move the parameters; a ``step`` along which the gradient does
        not change by more than the loss is rounded, as far as that follows from its size.

    **Cost**: 2 (q + 1) queries. Source: DeepZero, section 4 (arXiv 2310.02025), but for
    the shared directions.

    Example:
      >>> import deepzero_jax as dz
      >>> loss = lambda w: jnp.sum(w**4)
      >>> scores = dz.zo_grasp_scores(loss, jnp.array([1.0, 0.1]), key=jax.random.key(0))
      >>> bool(scores[0] < scores[1])
      True
    """
    _check(step, variant)
    check_float_leaves(params)
    check_key(key, "zo_grasp_scores draws random directions")
    check_scoring_smoothing(smoothing, params)
    released = variant == "released"
    estimator = _directions(smoothing, num_directions, released, batch_size)
    vg = value_and_grad(fun, estimator)

    def gradient(at: Params, k: Key) -> tuple[jax.Array, PyTree]:
        value, grads = vg(at, *args, key=k)
        return value, jax.tree.map(lambda g: smoothing * g, grads) if released else grads

    params = _wide(params)
    first_key, second_key = jax.random.split(key)
    value, start = gradient(params, first_key)
    moved = jax.tree.map(lambda p, g: p + step * g, params, start)
    stop = gradient(moved, first_key if variant == "shared" else second_key)[1]
    change = jax.tree.map(lambda a, b: b - a, start, stop)
    scores = jax.tree.map(lambda p, c: -p * c / step, params, change)
    lost = _is_swallowed(params, moved, start, step)
    if variant == "shared":
        # Of a loss that is rounded alone; along other directions another gradient is estimated.
        slope = jnp.finfo(value.dtype).eps / 2 * jnp.abs(value) / smoothing
        rounding = slope * (2 / num_directions) ** 0.5
        lost |= (_rms(change) > 0) & (_rms(change) < 2 * rounding)
    if not isinstance(lost, core.Tracer) and lost:
        raise ValueError(
            f"step={step:g} along the estimated gradient ({_rms(start):.2g}, root mean square) is "
            "too short: its estimate changes by no more than the rounding of the loss. Raise step, "
            "or compute in float64; of a loss without curvature all scores are 0"
        )
    return jax.tree.map(lambda s: jnp.where(lost, jnp.nan, s), scores)


def _is_swallowed(params: Params, moved: Params, grads: PyTree, step: float) -> jax.Array:
    """Whether of the step along a gradient rounding has left another."""
    error = jax.tree.map(lambda p, m, g: (m - p) - step * g, params, moved, grads)
    return _rms(error) > 0.1 * step * _rms(grads)


def _rms(tree: PyTree) -> jax.Array:
    """Root mean square of all numbers; those that float32 cannot square count as well."""
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]))
    scale = jnp.where(largest > 0, largest, 1)
    squares = sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves)
    return scale * jnp.sqrt(squares / sum(leaf.size for leaf in leaves))


def _directions(
    smoothing: float, num_directions: int, released: bool, batch_size: BatchSize
) -> Estimator:
    # Subtracted: along a random direction the loss moves by much more than its rounding, and a
    # dense difference costs two products for each one.
    return rge(
        smoothing=smoothing,
        num_directions=num_directions,
        distribution="tensor_sphere" if released else "normal",
        reuse="none",
        batch_size=batch_size,
    )


def _check(step: float, variant: Variant) -> None:
    if not 0 < step < math.inf:
        raise ValueError(f"step must be positive, got {step!r}")
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {list(get_args(Variant))}, got {variant!r}")


def check_scoring_smoothing(smoothing: float, params: Params) -> None:
    """Raises ValueError for a smoothing by which ``zo_grasp_scores`` would not move the parameters.

    Args:
      smoothing: μ.
      params: to be scored, those of 16 bits in float32.
    """
    if isinstance(smoothing, Mapping):
        raise ValueError(f"the smoothing of scores is one number for all leaves, got {smoothing}")
    params = _wide(params)
    paths, leaves = leaf_paths(params), jax.tree.leaves(params)
    dtypes = [leaf.dtype for leaf in leaves]
    steps = leaf_steps(as_smoothing(smoothing), paths, dtypes)
    check_resolution(steps, paths, dtypes, leaves, otherwise="")


def _wide(params: Params) -> Params:
    # The difference of two gradients, a short step apart, drowns in 16 bits.
    return jax.tree.map(lambda p: jnp.asarray(p, wide_dtype(jnp.result_type(p))), params)


def grasp_scores(fun: ScalarLoss, params: Params, *args: PyTree) -> PyTree:
    r"""GraSP: $S = -θ ⊙ H g$ by autodiff, the first-order counterpart of ``zo_grasp_scores``.

    Args:
      fun: ``fun(params, *args) -> scalar loss``, differentiable.
      params: pytree of floating-point arrays.
      *args: passed on to ``fun``.

    Returns:
      Scores, a pytree like ``params``; the highest are pruned first.

    **Cost**: one gradient and one Hessian-vector product.
    Source: Wang et al., ICLR 2020 (arXiv 2002.07376), equation (8).

    Example:
      >>> grasp_scores(lambda w: jnp.sum(w**2), jnp.array([1.0, 2.0])).tolist()
      [-4.0, -16.0]
    """
    check_float_leaves(params)
    params = _wide(params)
    gradient = jax.grad(lambda p: fun(p, *args))
    _, product = jax.jvp(gradient, (params,), (gradient(params),))
    return jax.tree.map(lambda p, hg: -p * hg, params, product)


def random_scores(key: Key, params: Params) -> PyTree:
    """Uniform random scores in [0, 1): every leaf is pruned by about the same fraction.

    Args:
      key: a PRNG key, consumed.
      params: pytree of floating-point arrays.

    **Cost**: no query.

    Example:
      >>> random_scores(jax.random.key(0), {"w": jnp.zeros((2, 3))})["w"].shape
      (2, 3)
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    return treedef.unflatten(
        [jax.random.uniform(k, jnp.shape(leaf)) for k, leaf in zip(keys, leaves, strict=False)]
    )


class Scoring(NamedTuple):
    """A kind of scores.

    Attributes:
      scores: ``(fun, params, args, key, **options) -> scores``; what its arguments are
        called says what they are given.
      num_queries: ``(**options) -> int``, evaluations of the loss that they cost.
    """

    scores: Callable[..., PyTree]
    num_queries: Callable[..., int]


def _grasp(fun: ScalarLoss, params: Params, args: tuple[PyTree, ...]) -> PyTree:
    return grasp_scores(fun, params, *args)


def _random(key: Key, params: Params) -> PyTree:
    return random_scores(key, params)


def _zo_grasp(
    fun: ScalarLoss,
    params: Params,
    args: tuple[PyTree, ...],
    key: Key,
    smoothing: float,
    num_directions: int,
    step: float,
    variant: Variant,
) -> PyTree:
    return zo_grasp_scores(
        fun,
        params,
        *args,
        key=key,
        smoothing=smoothing,
        num_directions=num_directions,
        step=step,
        variant=variant,
    )


SCORES = Registry(
    "scores",
    {
        "grasp": Scoring(_grasp, lambda: 0),
        "random": Scoring(_random, lambda: 0),
        "zo_grasp": Scoring(_zo_grasp, lambda num_directions: 2 * (num_directions + 1)),
    },
)
