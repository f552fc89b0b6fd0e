"""Scores of parameters at initialisation: how much pruning each would change gradient flow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deepzero_jax.estimators import check_smoothing, rge, value_and_grad

PyTree = Any
_VARIANTS = ("shared", "independent", "released")


def zo_grasp_scores(
    fun: Callable[..., jax.Array],
    params: PyTree,
    *args: Any,
    key: jax.Array,
    smoothing: float = 5e-3,
    num_directions: int = 192,
    step: float = 5e-3,
    variant: str = "shared",
    batch_size: int | str = "auto",
) -> PyTree:
    r"""ZO-GraSP: $S = -θ ⊙ (\hat g(θ + s\,\hat g(θ)) - \hat g(θ)) / s$ from queries alone.

    The lower the score, the more gradient flow is lost with the parameter; the highest
    are pruned first (GraSP, Wang et al. 2020, algorithm 1).

    Args:
      fun: ``fun(params, *args) -> scalar loss``.
      params: pytree of floating-point arrays.
      *args: passed on to ``fun``.
      key: a PRNG key, consumed.
      smoothing: μ of the random gradient estimates.
      num_directions: q, random directions of each of the two estimates.
      step: s, the length of the step along the estimated gradient.
      variant: ``"shared"``: both estimates use the same directions, so that their
        difference carries curvature and not two draws' noise. ``"independent"``: two
        draws. ``"released"``: as the authors' code: two draws, each direction normalised
        tensor by tensor and scaled by ``smoothing``, the estimate multiplied by the
        scaled direction.
      batch_size: perturbed passes side by side, or ``"auto"``.

    Returns:
      Scores, a pytree like ``params``.

    Raises:
      ValueError: an unknown variant, ``smoothing`` or ``step`` not above 0.

    **Cost**: 2 (q + 1) queries.
    Source: DeepZero, section 4 (arXiv 2310.02025). Departure: shared directions.

    Example:
      >>> import deepzero_jax as dz
      >>> loss = lambda w: jnp.sum(w**4)
      >>> scores = dz.zo_grasp_scores(loss, jnp.array([1.0, 0.1]), key=jax.random.key(0))
      >>> bool(scores[0] < scores[1])
      True
    """
    check_smoothing(smoothing)
    if not step > 0:
        raise ValueError(f"step must be positive, got {step!r}")
    if variant not in _VARIANTS:
        raise ValueError(f"variant must be one of {list(_VARIANTS)}, got {variant!r}")
    first_key, second_key = jax.random.split(key)
    if variant == "shared":
        second_key = first_key
    released = variant == "released"
    estimator = rge(
        smoothing=smoothing,
        num_directions=num_directions,
        distribution="tensor_sphere" if released else "normal",
        # Along a random direction of all parameters the loss moves by much more than its
        # rounding, and a dense difference costs three times as much to propagate.
        reuse="none",
        batch_size=batch_size,
    )
    vg = value_and_grad(fun, estimator)

    def gradient(at: PyTree, k: jax.Array) -> PyTree:
        grads = vg(at, *args, key=k)[1]
        return jax.tree.map(lambda g: smoothing * g, grads) if released else grads

    return _scores_from_gradients(gradient, params, (first_key, second_key), step)


def _scores_from_gradients(
    gradient: Callable[[PyTree, Any], PyTree], params: PyTree, keys: tuple[Any, Any], step: float
) -> PyTree:
    start = gradient(params, keys[0])
    moved = jax.tree.map(lambda p, g: p + step * g, params, start)
    stop = gradient(moved, keys[1])
    return jax.tree.map(lambda p, a, b: -p * (b - a) / step, params, start, stop)


def grasp_scores(fun: Callable[..., jax.Array], params: PyTree, *args: Any) -> PyTree:
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
    gradient = jax.grad(lambda p: fun(p, *args))
    _, product = jax.jvp(gradient, (params,), (gradient(params),))
    return jax.tree.map(lambda p, hg: -p * hg, params, product)


def random_scores(key: jax.Array, params: PyTree) -> PyTree:
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
