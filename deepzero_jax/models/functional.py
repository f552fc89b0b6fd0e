"""Any model as pure functions: its parameters, its training loss, its predictions.

A model is a ``flax.linen.Module``, or an object with two pure functions
``init(key, inputs) -> params`` and ``apply(params, inputs) -> outputs``, a NamedTuple of
them for one.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax
from flax.errors import InvalidRngError

from deepzero_jax.types import Key, Params, PyTree

# ``(outputs, *targets) -> (loss, metrics)``, ``metrics`` a dictionary of scalars.
OutputLoss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
# ``(params, model_state, inputs, *targets) -> (loss, (model_state, metrics))``.
ModelLoss = Callable[..., tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]


@runtime_checkable
class PureModel(Protocol):
    """A pair of pure functions, without state beside the parameters."""

    @property
    def init(self) -> Callable[[Key, PyTree], Params]:
        """``(key, inputs) -> params``."""
        ...

    @property
    def apply(self) -> Callable[[Params, PyTree], PyTree]:
        """``(params, inputs) -> outputs``."""
        ...


Model = nn.Module | PureModel


def init_model(model: Model, key: Key, inputs: PyTree) -> tuple[Params, PyTree]:
    """Draws the parameters of a model.

    Args:
      model: a Linen module or a pair of ``init`` and ``apply``.
      key: a PRNG key, consumed.
      inputs: like those of a batch; one row is enough.

    Returns:
      ``(params, model_state)``: parameters, in the order in which Flax creates them, and the
      other collections of a module (running statistics), ``{}`` where there are none.

    Raises:
      TypeError: something that is no model.

    Example:
      >>> import jax.numpy as jnp
      >>> params, state = init_model(nn.Dense(2), jax.random.key(0), jnp.zeros((1, 3)))
      >>> list(params), params["kernel"].shape, state
      (['kernel', 'bias'], (3, 2), {})
    """
    if not isinstance(model, nn.Module):
        return _checked(model).init(key, inputs), {}
    variables = dict(model.init(key, inputs, **_mode(model, train=False)))
    return variables.pop("params", {}), variables


def predict(model: Model, params: Params, model_state: PyTree, inputs: PyTree) -> PyTree:
    """The outputs of a model as it is used: running statistics, nothing updated.

    Args:
      model: a Linen module or a pair of ``init`` and ``apply``.
      params: its parameters.
      model_state: its other collections.
      inputs: a batch, as the model takes it.

    Example:
      >>> import jax.numpy as jnp
      >>> predict(nn.Dense(1, use_bias=False), {"kernel": jnp.ones((2, 1))}, {}, jnp.ones((1, 2)))
      Array([[2.]], dtype=float32)
    """
    if not isinstance(model, nn.Module):
        return _checked(model).apply(params, inputs)
    with _no_random_numbers():
        return model.apply({"params": params, **model_state}, inputs, **_mode(model, train=False))


def model_loss(model: Model, output_loss: OutputLoss) -> ModelLoss:
    """The training loss of a model, for ``value_and_grad(…, has_aux=True)``.

    A module whose ``__call__`` takes ``train`` gets ``train=True``; its collections other
    than the parameters may be updated, and the updates are returned. A module that draws
    random numbers in training (dropout) needs a loss of your own, which passes it a key.

    Args:
      model: a Linen module or a pair of ``init`` and ``apply``.
      output_loss: ``(outputs, *targets) -> (loss, metrics)``, ``metrics`` a dictionary.

    Returns:
      ``fun(params, model_state, inputs, *targets) -> (loss, (model_state, metrics))``.
      Estimators take the second from the base pass, so perturbed passes update nothing.

    Raises:
      TypeError: something that is no model.
      ValueError: in a call, a module that draws random numbers.

    **Cost** of a call: one query.

    Example:
      >>> import jax.numpy as jnp
      >>> squares = lambda outputs, y: (jnp.mean((outputs - y) ** 2), {})
      >>> fun = model_loss(nn.Dense(1, use_bias=False), squares)
      >>> fun({"kernel": jnp.ones((2, 1))}, {}, jnp.ones((4, 2)), jnp.zeros((4, 1)))[0].item()
      4.0
    """
    if not isinstance(model, nn.Module):
        _checked(model)

    def loss(
        params: Params, model_state: PyTree, inputs: PyTree, *targets: PyTree
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        if isinstance(model, nn.Module):
            variables = {"params": params, **model_state}
            mutable = list(model_state)
            with _no_random_numbers():
                outputs, updated = model.apply(
                    variables, inputs, mutable=mutable, **_mode(model, train=True)
                )
            model_state = {**model_state, **updated}
        else:
            outputs = model.apply(params, inputs)
        value, metrics = output_loss(outputs, *targets)
        return value, (model_state, metrics)

    return loss


@contextmanager
def _no_random_numbers() -> Iterator[None]:
    """Says what to do about a module that draws random numbers."""
    try:
        yield
    except InvalidRngError as error:
        reason = " ".join(str(error).split()).split(" (http")[0]
        raise ValueError(
            f"the model draws random numbers ({reason}), and a loss whose differences are "
            "taken must hold them still: leave them out, as by nn.Dropout(…, deterministic=True) "
            "in training too, or write a loop of your own, with a loss that passes a key"
        ) from error


def _mode(model: nn.Module, train: bool) -> dict[str, PyTree]:
    """``{"train": train}`` for a module whose ``__call__`` takes it, else nothing."""
    takes = inspect.signature(type(model).__call__).parameters
    return {"train": train} if "train" in takes else {}


def _checked(model: PureModel) -> PureModel:
    if not isinstance(model, PureModel):
        raise TypeError(
            "a model is a flax.linen.Module, or an object with init(key, inputs) and "
            f"apply(params, inputs), got {model!r}"
        )
    return model
