"""The one contract behind which every gradient estimator stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from deepzero_jax.coordinates import all_coordinates, scatter
from deepzero_jax.estimators.explicit_axes import estimated
from deepzero_jax.estimators.loss import Loss, ValueAndAux
from deepzero_jax.estimators.manual_axes import params_on_device
from deepzero_jax.estimators.probing import Probe
from deepzero_jax.keys import check_key
from deepzero_jax.types import Key, Params, PyTree


@runtime_checkable
class Estimator(Protocol):
    """A gradient estimator.

    ``CoordinateEstimator``, ``DirectionEstimator`` and ``AutodiffEstimator`` are its kinds;
    an estimator of your own is one of the first two, or any object with these members.
    ``dataclasses.replace(estimator, name=…)`` copies one.
    """

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def needs_key(self) -> bool:
        """Whether ``estimate`` consumes a key."""
        ...

    @property
    def num_queries(self) -> Callable[[int], int]:
        """``(num_coordinates) -> int``: evaluations of the loss on a batch that one estimate
        costs, the base pass included.
        """  # noqa: D205 - one sentence
        ...

    @property
    def chunk_sizes(self) -> Callable[[Loss, Params, PyTree], list[int]] | None:
        """``(loss, params, coordinates) -> [int]``: coordinates evaluated side by side, leaf by
        leaf; None where the price of an estimate does not follow from the coordinates.
        """  # noqa: D205 - one sentence
        ...

    def estimate(
        self, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        """Value, aux and gradient.

        Args:
          loss: to be differentiated.
          params: pytree of arrays.
          key: None where ``needs_key`` is false.
          coordinates: int32 [n] a leaf, None for all.

        Returns:
          ``(value, aux)``, and a gradient like ``params``, zero outside ``coordinates``.
        """
        ...


def described(name: str, settings: Mapping[str, object]) -> str:
    """``"cge(smoothing=0.0001)"``: a call that reads like the one that made an estimator."""
    shown = [f"{key}={value!r}" for key, value in settings.items() if value is not None]
    return f"{name}({', '.join(shown)})"


def with_probe(estimator: Estimator, probe: Probe) -> Estimator:
    """The same estimator, which knows the probe that its smoothing follows from."""
    if isinstance(estimator, CoordinateEstimator | DirectionEstimator):
        return replace(estimator, probe=probe)
    return estimator


@dataclass(frozen=True, eq=False, repr=False)
class CoordinateEstimator:
    """An estimator that finds one number for each coordinate, so that devices can share them.

    Attributes:
      name: for messages.
      num_queries: ``(num_coordinates) -> int``, the base pass included.
      values: ``(loss, params, coordinates) -> ((value, aux), values)``, ``values`` a pytree
        like ``coordinates``: the slope of the loss along each.
      chunk_sizes: ``(loss, params, coordinates) -> [int]``, coordinates side by side.
      settings: of the estimator, for its ``repr``.
      probe: that its smoothing follows from, or None.

    Example:
      >>> import deepzero_jax as dz
      >>> from dataclasses import replace
      >>> free = replace(dz.cge(), name="free", num_queries=lambda num_coordinates: 0)
      >>> dz.num_queries(free, jax.numpy.zeros(9))
      0
    """

    name: str
    num_queries: Callable[[int], int]
    values: Callable[[Loss, Params, PyTree], tuple[ValueAndAux, PyTree]]
    chunk_sizes: Callable[[Loss, Params, PyTree], list[int]]
    settings: Mapping[str, object] = field(default_factory=dict)
    probe: Probe | None = None
    needs_key: bool = field(default=False, init=False)

    def estimate(
        self, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        """The values, scattered into zeros; see ``Estimator``."""
        return estimated(self._estimate, loss, params, key, coordinates)

    def _estimate(
        self, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        del key
        params = params_on_device(loss, params, coordinates, None)
        chosen = all_coordinates(params) if coordinates is None else coordinates
        head, values = self.values(loss, params, chosen)
        return head, jax.tree.map(scatter, params, chosen, values)

    def __repr__(self) -> str:
        """As the call that made it."""
        return described(self.name, self.settings)


class Part(NamedTuple):
    """Which directions of an estimate are meant: ``first``, ``first + of``, and so on.

    Attributes:
      first: of them; an int32 scalar where it depends on the device.
      of: number of parts.
      gather: values of this part → [parts, …], those of all that are estimated.
    """

    first: jax.Array | int = 0
    of: int = 1
    gather: Callable[[jax.Array], jax.Array] = lambda values: values[None]

    def number(self, index: jax.Array) -> jax.Array:
        """Which of all directions the one at an index of this part is."""
        return index * self.of + self.first


@dataclass(frozen=True, eq=False, repr=False)
class DirectionEstimator:
    """An estimator that sums terms, one for each random direction; devices share the terms.

    Attributes:
      name: for messages.
      num_queries: ``(num_coordinates) -> int``, the base pass included.
      summand: ``(loss, params, key, coordinates, part) -> ((value, aux), grads)``: the share
        that a ``Part`` of the directions has in the gradient, which is the sum of all parts'.
      settings: of the estimator, for its ``repr``.
      probe: that its smoothing follows from, or None.
    """

    name: str
    num_queries: Callable[[int], int]
    summand: Callable[[Loss, Params, Key, PyTree | None, Part], tuple[ValueAndAux, Params]]
    settings: Mapping[str, object] = field(default_factory=dict)
    probe: Probe | None = None
    needs_key: bool = field(default=True, init=False)
    chunk_sizes: None = field(default=None, init=False)

    def estimate(
        self, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        """The only part of one; see ``Estimator``."""
        return estimated(self._estimate, loss, params, key, coordinates)

    def _estimate(
        self, loss: Loss, params: Params, key: Key | None, coordinates: PyTree | None
    ) -> tuple[ValueAndAux, Params]:
        key = check_key(key, f"{self.name} draws random directions")
        params = params_on_device(loss, params, coordinates, key)
        return self.summand(loss, params, key, coordinates, Part())

    def __repr__(self) -> str:
        """As the call that made it."""
        return described(self.name, self.settings)
