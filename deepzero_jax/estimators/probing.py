"""The noise of a loss, measured, and the smoothing that suits it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from deepzero_jax.coordinates import check_float_leaves
from deepzero_jax.estimators.smoothing import Smoothing, as_smoothing
from deepzero_jax.keys import check_key
from deepzero_jax.types import Key, Params

MOST_QUERIES = 60
# Steps of a coordinate at which the noise is looked at, and those of the ladder that follows.
_FIRST_STEP, _SECOND_STEP, _LARGEST_STEP = 1e-4, 3e-6, 1.0
_REPEATS, _POINTS, _DIRECTIONS = 4, 8, 6
# Of the central smoothing: a step too long costs its square in truncation, one too short only
# itself in noise, and along ±1 a third derivative looks smaller than that of single coordinates.
_CAUTION = 0.7


class Probe(NamedTuple):
    """What ``probe_smoothing`` found; ``str`` of it is a table.

    Attributes:
      noise: standard deviation of the loss between points that are as good as the same.
      curvature: second derivative along one coordinate, its mean size.
      smoothing: for forward differences.
      error: expected of a slope then, root mean square, in units of the loss per unit of a
        parameter.
      central_smoothing: for central differences.
      central_error: expected of a slope then.
      num_queries: evaluations of the loss that were spent.
      deterministic: whether the base gave the same loss each time.
      flat_below: the loss answered no step below this one, as trees and quantisers do; or None.
        No smoothing here is longer than 1.
    """

    noise: float
    curvature: float
    smoothing: float
    error: float
    central_smoothing: float
    central_error: float
    num_queries: int
    deterministic: bool
    flat_below: float | None

    def step(self, central: bool) -> float:
        """The smoothing for one kind of differences."""
        return self.central_smoothing if central else self.smoothing

    def slope_error(self, central: bool) -> float:
        """The error that a slope is expected to have at that smoothing."""
        return self.central_error if central else self.error

    def __str__(self) -> str:
        """A table of the differences, and what was seen."""
        kind = "the same answer each time" if self.deterministic else "another answer each time"
        lines = [
            f"noise         {self.noise:.2g} ({kind}), curvature {self.curvature:.2g}, "
            f"{self.num_queries} queries",
            f"{'difference':<12}  {'smoothing':>9}  {'error of a slope':>16}",
            f"{'forward':<12}  {self.smoothing:>9.2g}  {self.error:>16.2g}",
            f"{'central':<12}  {self.central_smoothing:>9.2g}  {self.central_error:>16.2g}",
        ]
        if self.flat_below is not None:
            lines.append(
                f"flat          no answer to steps below {self.flat_below:.2g}: the loss is "
                "piecewise constant, like a tree or a quantiser"
            )
        return "\n".join(lines)


def chosen_step(smoothing: Smoothing | Probe, central: bool) -> tuple[Smoothing, Probe | None]:
    """The step of an estimator, checked, and the probe that it follows from."""
    if isinstance(smoothing, Probe):
        return as_smoothing(smoothing.step(central)), smoothing
    return as_smoothing(smoothing), None


def probe_smoothing(fun: Callable[[Params], Any], params: Params, key: Key) -> Probe:
    r"""Measures the noise and the curvature of a loss, and the smoothing that suits both.

    The noise σ follows from the base, repeated, and from the difference table of points
    along a random direction, whose higher orders hold nothing else; the curvature c from
    second differences along a few directions ±1. Forward differences err by
    $\sqrt{(cμ/2)^2 + 2σ^2/μ^2}$, least at $μ = 8^{1/4}\sqrt{σ/c}$; central ones likewise with
    the third derivative, which is looked for at longer and longer steps until it stands out
    from the noise.

    Args:
      fun: ``(params) -> loss``: a function of JAX, a black box with what surrounds it, or any
        Python call. Answers in float64 keep their digits.
      params: pytree of floating-point arrays, the point to probe at.
      key: a PRNG key, consumed.

    Returns:
      A ``Probe``.

    Raises:
      TypeError: leaves that are not floating-point.
      ValueError: a loss that is not finite at ``params``, or that answers no step up to 1.

    **Cost**: at most 60 queries, one after the other.
    Source: Moré and Wild, Estimating Computational Noise (2011), Estimating Derivatives of
    Noisy Simulations (2012). Departures: the curvature is averaged over coordinates, the
    rounding of float32 bounds the noise from below where answers are float32, and the central
    smoothing is 0.7 of the best by these estimates, as too long a step costs more than too
    short a one.

    Example:
      >>> import deepzero_jax as dz, jax.numpy as jnp
      >>> probe = dz.probe_smoothing(lambda w: jnp.sum(w**2), jnp.ones(10), jax.random.key(0))
      >>> 1e-5 < probe.smoothing < 1e-2, probe.num_queries <= 60
      (True, True)
    """
    check_float_leaves(params)
    return _Probing(fun, params, key).probe()


class _Probing:
    def __init__(self, fun: Callable[[Params], Any], params: Params, key: Key) -> None:
        check_key(key, "the probe goes along random directions")
        self._fun = fun
        leaves, self._treedef = jax.tree.flatten(params)
        self._leaves = [np.asarray(leaf) for leaf in leaves]
        self._size = max(sum(leaf.size for leaf in self._leaves), 1)
        self._rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        self.num_queries = 0
        self._coarse = True

    def probe(self) -> Probe:
        base = [self._at(None, 0.0) for _ in range(_REPEATS)]
        if not np.isfinite(base).all():
            raise ValueError(f"the loss must be finite at params, got {base[0]}")
        value = float(np.mean(base))
        deterministic = len(set(base)) == 1
        noise, flat_below = self._noise(value, deterministic, base)
        curvature, third = self._derivatives(value, noise)
        smoothing = _within(8**0.25 * math.sqrt(noise / curvature))
        central = _within(_CAUTION * (3 * noise / third) ** (1 / 3))
        if flat_below is not None:
            smoothing = _within(max(smoothing, 2 * flat_below))
            central = _within(max(central, 2 * flat_below))
        return Probe(
            noise,
            curvature,
            smoothing,
            math.hypot(curvature * smoothing / 2, math.sqrt(2) * noise / smoothing),
            central,
            math.hypot(third * central**2 / 6, noise / (math.sqrt(2) * central)),
            self.num_queries,
            deterministic,
            flat_below,
        )

    def _at(self, direction: Sequence[np.ndarray] | None, step: float) -> float:
        """The loss at a step along a direction."""
        moved = self._leaves
        if direction is not None:
            pairs = zip(self._leaves, direction, strict=True)
            moved = [(leaf + step * u).astype(leaf.dtype) for leaf, u in pairs]
        self.num_queries += 1
        loss = float(np.asarray(self._fun(self._treedef.unflatten(moved))))
        self._coarse &= loss == float(np.float32(loss))
        return loss

    def _direction(self) -> list[np.ndarray]:
        return [self._rng.choice([-1.0, 1.0], leaf.shape) for leaf in self._leaves]

    def _noise(
        self, value: float, deterministic: bool, base: Sequence[float]
    ) -> tuple[float, float | None]:
        """The noise, and below which step a loss is flat."""
        direction, step, flat_below = self._direction(), _FIRST_STEP, None
        if deterministic and all(self._at(direction, s * step) == value for s in (1.0, -1.0)):
            step *= 4
            while self._at(direction, step) == value:
                if step == _LARGEST_STEP:
                    self._check_answers(value)
                    break
                step = min(4 * step, _LARGEST_STEP)
            flat_below = step
        table = [value] + [self._at(direction, i * step) for i in range(1, _POINTS + 1)]
        found = table_noise(table)
        if found is None and flat_below is None:
            # What varies over such steps is the loss itself: look closer.
            step = _SECOND_STEP
            table = [value] + [self._at(direction, i * step) for i in range(1, _POINTS + 1)]
            found = table_noise(table)
        if found is None:
            found = last_order(table)
            if not math.isfinite(found):  # a point without an answer: the repeats must do
                found = 0.0
        if not deterministic:
            found = math.sqrt((found**2 + float(np.var(base, ddof=1))) / 2)
        precision = np.finfo(np.float32 if self._coarse else np.float64).eps
        return max(found, 0.3 * float(precision) * max(abs(value), 1e-30)), flat_below

    def _check_answers(self, value: float) -> None:
        """Raises ValueError for a loss that the largest step moves along no direction."""
        for direction in (self._direction() for _ in range(4)):
            if any(self._at(direction, sign * _LARGEST_STEP) != value for sign in (1, -1)):
                return
        raise ValueError(
            f"the loss answers no step up to {_LARGEST_STEP:g} of all parameters: it does not "
            "depend on them, or in larger steps only; scale the parameters"
        )

    def _derivatives(self, value: float, noise: float) -> tuple[float, float]:
        """Second and third derivative along a coordinate, from steps that the noise allows."""
        first = _Line(self._at, self._direction(), value)
        step = _FIRST_STEP / 4
        while abs(first.second(step)) <= 40 * noise and step < _LARGEST_STEP and self._may(22):
            step *= 4
        # A third derivative stands out from larger steps on, and that of a parabola from none.
        far = step
        while abs(first.third(far)) <= 6 * noise and 16 * far <= _LARGEST_STEP and self._may(8):
            far *= 4
        lines, each = [first], 4 if far == step else 6
        while len(lines) < _DIRECTIONS and self._may(len(lines) * each):
            lines.append(_Line(self._at, self._direction(), value))
        # Below these a derivative drowns: nothing smaller can be told from 0.
        second = max(_size([line.second(step) for line in lines]), noise) / step**2
        third = max(_size([line.third(far) for line in lines]), noise / 3) / far**3
        return second / self._size, third / self._size

    def _may(self, num_queries: int) -> bool:
        return self.num_queries + num_queries <= MOST_QUERIES


class _Line:
    """A loss along a direction, asked once at each step.

    Args:
      at: ``(direction, step) -> loss``.
      direction: of unit steps.
      value: at the base.
    """

    def __init__(
        self,
        at: Callable[[Sequence[np.ndarray], float], float],
        direction: Sequence[np.ndarray],
        value: float,
    ) -> None:
        self._at, self._direction, self._value = at, direction, value
        self._known: dict[float, tuple[float, float]] = {}

    def _both(self, step: float) -> tuple[float, float]:
        if step not in self._known:
            upper, lower = (self._at(self._direction, s * step) for s in (1, -1))
            self._known[step] = upper, lower
        return self._known[step]

    def second(self, step: float) -> float:
        """The second derivative times the square of a step."""
        upper, lower = self._both(step)
        return upper + lower - 2 * self._value

    def third(self, step: float) -> float:
        """The third derivative times the cube of a step, with 0.3 of the noise of a loss."""
        near, far = (upper - lower for upper, lower in (self._both(step), self._both(4 * step)))
        return (far / 4 - near) / 5


def _size(differences: Sequence[float]) -> float:
    finite = [d for d in differences if math.isfinite(d)]
    return math.sqrt(np.mean(np.square(finite))) if finite else 0.0


def _within(step: float) -> float:
    return float(min(max(step, 1e-12), _LARGEST_STEP))


def _orders(table: Sequence[float]) -> list[float]:
    """Noise by each order of the difference table."""
    row, factor, found = np.asarray(table, np.float64), 1.0, []
    for order in range(1, len(table) - 2):
        row = np.diff(row)
        factor *= order / (2 * (2 * order - 1))  # (k!)² / (2k)!
        found.append(math.sqrt(factor * float(np.mean(np.square(row)))))
    return found


def table_noise(table: Sequence[float]) -> float | None:
    """The noise in values at equal distances, or None where their differences do not settle.

    Args:
      table: losses at equal steps along a line.

    Example:
      >>> table_noise([0.0, 1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0, 64.0])
      0.0
    """
    orders = _orders(table)
    for first in range(len(orders) - 2):
        three = orders[first : first + 3]
        if max(three) <= 4 * min(three):
            return three[0]
    return None


def last_order(table: Sequence[float]) -> float:
    """The noise by the highest order: at most so much."""
    return _orders(table)[-1]
