"""From a loss and an estimator to a function that gives value and gradient."""

import inspect
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp

from deepzero_jax.blackbox import asks_host, box_errors, samples_asked
from deepzero_jax.coordinates import check_coordinates, check_float_leaves, num_coordinates
from deepzero_jax.estimators.boundary import Differentiable
from deepzero_jax.estimators.contract import CoordinateEstimator, DirectionEstimator, Estimator
from deepzero_jax.estimators.doubts import Doubts
from deepzero_jax.estimators.loss import Loss, LossFunction
from deepzero_jax.keys import check_key
from deepzero_jax.pages import explained
from deepzero_jax.types import Key, Params, PyTree

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, eq=False)
class ValueAndGrad:
    """What ``value_and_grad`` returns: a function of the parameters.

    Attributes:
      fun: the loss.
      estimator: of its gradient.
      has_aux: whether ``fun`` returns auxiliary output.
    """

    fun: LossFunction
    estimator: Estimator
    has_aux: bool
    _doubts: Doubts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_doubts", Doubts(self.estimator))

    def __call__(
        self,
        params: Params,
        /,
        *args: PyTree,
        key: Key | None = None,
        coordinates: PyTree | None = None,
        **kwargs: PyTree,
    ) -> tuple[PyTree, Params]:
        """``(value, grads)``, or ``((value, aux), grads)`` with ``has_aux``."""
        check_float_leaves(params)
        params = jax.tree.map(jnp.asarray, params)
        if coordinates is not None:
            check_coordinates(params, coordinates)
        if self.estimator.needs_key:
            check_key(key, f"{self.estimator.name} draws random directions")
        for name, given in {"key": key, "coordinates": coordinates}.items():
            if given is not None and _wants(self.fun, name, (params, *args), kwargs):
                raise ValueError(
                    f"{name}= is of the estimate, and the function has an argument {name!r} of "
                    "its own: hand that over by position, or wrap the function, "
                    f"lambda *args: fun(*args, {name}=…)"
                )
        loss = Loss(self.fun, args, self.has_aux, kwargs)
        with _precision(), box_errors(), explained():
            asks = _checked(loss, params)
            (value, aux), grads = self.estimator.estimate(loss, params, key, coordinates)
            if asks:
                self._doubts.watch(value, grads, coordinates)
        return ((value, aux) if self.has_aux else value), grads

    def samples_asked(self, params: Params, *args: PyTree) -> int:
        """Samples that an estimate along all coordinates sends to black boxes; nothing is asked.

        Queries times those of one evaluation of the loss; a query that reaches no box sends none.

        Args:
          params: of the loss.
          *args: likewise.
        """
        if not isinstance(self.estimator, CoordinateEstimator | DirectionEstimator):
            return samples_asked(lambda *given: self(*given), params, *args)
        return samples_asked(self.fun, params, *args) * num_queries(self.estimator, params)


def _wants(
    fun: LossFunction, name: str, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]
) -> bool:
    """Whether a function has an argument of a name that these do not fill."""
    try:
        signature = inspect.signature(fun)
        filled = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or arguments that its call will complain of
        return False
    parameter = signature.parameters.get(name)
    if parameter is None or parameter.kind not in _NAMED or name in filled:
        return False
    return not (isinstance(fun, partial) and name in fun.keywords)


def value_and_grad(fun: LossFunction, estimator: Estimator, has_aux: bool = False) -> ValueAndGrad:
    """Estimates value and gradient of a scalar function, by forward evaluations or autodiff.

    A drop-in for ``jax.value_and_grad``: the gradients feed any optax transformation. They are of
    the values of the function: rounding, ``stop_gradient`` and custom derivatives, which rule
    what ``jax.grad`` sees, rule nothing here, so straight-through estimators, target networks
    and the like change their meaning; hand what is to stay fixed over as an argument.

    Args:
      fun: ``fun(params, *args, **kwargs) -> loss``, or ``-> (loss, aux)`` with ``has_aux``.
        ``params`` is any pytree of floating-point arrays, ``loss`` a scalar.
      estimator: from ``cge``, ``rge`` or ``first_order``.
      has_aux: whether ``fun`` returns auxiliary output; it comes from the base
        (unperturbed) pass only.

    Returns:
      ``vg(params, *args, key=None, coordinates=None, **kwargs) -> (value, grads)``, or
      ``((value, aux), grads)`` with ``has_aux``. It can be jitted. ``key`` is consumed
      by estimators that draw directions. ``coordinates`` are int32 arrays [n] of flat
      indices, leaf by leaf, see ``sample_coordinates``; None means all. Gradients
      outside the set are exactly zero. Further keyword arguments go to ``fun``. Forward
      passes run at ``highest`` matmul precision unless ``jax_default_matmul_precision``
      says otherwise.

    Raises:
      TypeError: ``estimator`` is not one, a leaf is not floating-point, or the loss is
        not a real scalar.
      ValueError: a missing key, coordinates that do not fit ``params``, or, inside
        ``shard_map``, shards of the parameters of one loss.

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

    return ValueAndGrad(fun, estimator, has_aux)


def num_queries(
    estimator: Estimator | Differentiable, params: Params, coordinates: PyTree | None = None
) -> int:
    """Counts the evaluations of the loss that one gradient estimate costs.

    Args:
      estimator: from ``cge``, ``rge`` or ``first_order``; or a function of ``differentiable``,
        of which it counts the calls, forward and backward.
      params: pytree of arrays; or the only input of that function.
      coordinates: the set to be perturbed, None for all of ``params``.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> dz.num_queries(dz.cge(smoothing=1e-3), {"w": jnp.zeros((3, 4))})
      13
    """
    if isinstance(estimator, Differentiable):
        if coordinates is not None:
            raise TypeError(
                "a third argument is the coordinates of an estimator; of a function with several "
                "inputs ask itself: f.num_queries(x, y)"
            )
        return estimator.num_queries(params)
    return estimator.num_queries(num_coordinates(params, coordinates))


def _precision() -> AbstractContextManager[None]:
    """TF32 and bfloat16 passes ruin a difference of two losses: ask for full float32."""
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_matmul_precision(chosen or "highest")


def _checked(loss: Loss, params: Params) -> bool:
    """Whether a loss asks the host; raises TypeError unless it is a scalar."""
    call = lambda p, arrays: loss.with_arrays(arrays).output(p)
    traced, output = jax.make_jaxpr(call, return_shape=True)(params, loss.arrays())
    if loss.has_aux and not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError("with has_aux=True the loss must return a pair (loss, aux)")
    value = loss.scalar(output)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"the loss must be a real scalar, got shape {shape} and dtype {dtype}; "
            "average over the batch, and pass has_aux=True if it returns a pair (loss, aux)"
        )
    return asks_host(traced.jaxpr.eqns)
