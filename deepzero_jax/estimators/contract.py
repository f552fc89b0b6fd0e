"""The one contract behind which every gradient estimator stands."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from deepzero_jax.coordinates import check_coordinates, check_float_leaves, num_coordinates

PyTree = Any


class Loss(NamedTuple):
    """A loss with its fixed arguments, as an estimator sees it.

    Attributes:
      fun: the function as the user gave it, ``fun(params, *args)``.
      args: its further arguments.
      has_aux: whether it returns ``(loss, aux)``.
    """

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    has_aux: bool

    def __call__(self, params: PyTree) -> jax.Array:
        """The scalar loss alone; unused aux computations are never run."""
        return self.scalar(self.fun(params, *self.args))

    def scalar(self, output: Any) -> jax.Array:
        """The loss in what ``fun`` returned."""
        return output[0] if self.has_aux else output

    def value_and_aux(self, params: PyTree) -> tuple[jax.Array, Any]:
        """Loss and aux of the base pass; aux is None without ``has_aux``."""
        output = self.fun(params, *self.args)
        return output if self.has_aux else (output, None)


class Estimator(NamedTuple):
    """A gradient estimator: two pure functions and a name.

    Attributes:
      name: for messages.
      estimate: ``(loss: Loss, params, key, coordinates) -> ((value, aux), grads)``.
        ``grads`` is like ``params`` and zero outside ``coordinates`` (None: all).
      num_queries: ``(num_coordinates: int) -> int``, evaluations of the loss on a
        batch that one estimate costs, the base pass included.
      needs_key: whether ``estimate`` consumes a key.
      chunk_sizes: ``(loss: Loss, params, coordinates) -> [int]``, coordinates
        evaluated side by side, leaf by leaf; None where the price of an estimate does
        not follow from the coordinates.
      values: ``(loss, params, key, coordinates) -> ((value, aux), values)``, one number
        for each coordinate, where an estimate is made of such; so devices can share them.
      summand: ``(loss, params, key, coordinates, index, count) -> ((value, aux), grads)``,
        part ``index`` of ``count`` parts of an estimate that is their sum.
    """

    name: str
    estimate: Callable[..., tuple[tuple[jax.Array, Any], PyTree]]
    num_queries: Callable[[int], int]
    needs_key: bool = False
    chunk_sizes: Callable[..., list[int]] | None = None
    values: Callable[..., tuple[tuple[jax.Array, Any], PyTree]] | None = None
    summand: Callable[..., tuple[tuple[jax.Array, Any], PyTree]] | None = None


def value_and_grad(
    fun: Callable[..., Any], estimator: Estimator, has_aux: bool = False
) -> Callable[..., Any]:
    """Estimates value and gradient of a scalar function, by forward evaluations or autodiff.

    A drop-in for ``jax.value_and_grad``: the gradients feed any optax transformation.

    Args:
      fun: ``fun(params, *args) -> loss``, or ``-> (loss, aux)`` with ``has_aux``.
        ``params`` is any pytree of floating-point arrays, ``loss`` a scalar.
      estimator: from ``cge``, ``rge`` or ``first_order``.
      has_aux: whether ``fun`` returns auxiliary output; it comes from the base
        (unperturbed) pass only.

    Returns:
      ``vg(params, *args, key=None, coordinates=None) -> (value, grads)``, or
      ``((value, aux), grads)`` with ``has_aux``. It can be jitted. ``key`` is consumed
      by estimators that draw directions. ``coordinates`` are int32 arrays [n] of flat
      indices, leaf by leaf, see ``sample_coordinates``; None means all. Gradients
      outside the set are exactly zero. Forward passes run at ``highest`` matmul
      precision unless ``jax_default_matmul_precision`` says otherwise.

    Raises:
      TypeError: ``estimator`` is not one, a leaf is not floating-point, or the loss is
        not a real scalar.
      ValueError: a missing key, or coordinates that do not fit ``params``.

    **Cost**: ``num_queries(estimator, params, coordinates)`` queries.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> vg = dz.value_and_grad(lambda w: jnp.sum(w**2), dz.cge(smoothing=1e-3))
      >>> value, grads = vg(jnp.array([1.0, -2.0]))
      >>> print(value, grads.round(2))
      5.0 [ 2. -4.]
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"estimator must come from cge(), rge() or first_order(), got {estimator!r}"
        )

    def evaluate(
        params: PyTree,
        *args: Any,
        key: jax.Array | None = None,
        coordinates: PyTree | None = None,
    ) -> Any:
        check_float_leaves(params)
        if coordinates is not None:
            check_coordinates(params, coordinates)
        if estimator.needs_key and key is None:
            raise ValueError(
                f"{estimator.name} draws random directions: pass key=jax.random.key(…)"
            )
        loss = Loss(fun, args, has_aux)
        with _precision():
            _check_scalar(loss, params)
            (value, aux), grads = estimator.estimate(loss, params, key, coordinates)
        return ((value, aux) if has_aux else value), grads

    return evaluate


def num_queries(estimator: Estimator, params: PyTree, coordinates: PyTree | None = None) -> int:
    """Counts the evaluations of the loss that one gradient estimate costs.

    Args:
      estimator: from ``cge``, ``rge`` or ``first_order``.
      params: pytree of arrays.
      coordinates: the set to be perturbed, None for all of ``params``.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> dz.num_queries(dz.cge(smoothing=1e-3), {"w": jnp.zeros((3, 4))})
      13
    """
    return estimator.num_queries(num_coordinates(params, coordinates))


def _precision() -> Any:
    """TF32 and bfloat16 passes ruin a difference of two losses: ask for full float32."""
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_matmul_precision(chosen or "highest")


def _check_scalar(loss: Loss, params: PyTree) -> None:
    output = jax.eval_shape(lambda p, a: loss.fun(p, *a), params, loss.args)
    if loss.has_aux and not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError("with has_aux=True the loss must return a pair (loss, aux)")
    value = loss.scalar(output)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        raise TypeError(
            f"the loss must be a real scalar, got shape {shape} and dtype {dtype}; "
            "average over the batch, and pass has_aux=True if it returns a pair (loss, aux)"
        )
