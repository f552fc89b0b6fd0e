"""Seconds of a step that is not compiled: a few of its leaves timed, the others from their prices.

Compiling a step writes out the network once for each leaf. Here a step of a few leaves is compiled
and timed; what a coordinate of the others takes follows from its multiply-adds.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import all_coordinates, first_coordinates, leaf_paths
from deepzero_jax.estimators import DirectionEstimator, Estimator
from deepzero_jax.sampling import Selection, fixed_sampler
from deepzero_jax.training.step import TrainState, TrainStep
from deepzero_jax.training.timing import RunAt, timed
from deepzero_jax.types import PyTree

# Leaves that are compiled and timed: more of them take longer and tell little more.
_PARTS, _CHEAPEST = 4, 2
# Seconds up to which a whole step of random directions is simply run.
_SHORT = 5.0


class Seconds(NamedTuple):
    """A time that is not known exactly.

    Attributes:
      likely: the estimate.
      least: if everything goes well.
      most: if nothing does.
    """

    likely: float
    least: float
    most: float

    def times(self, count: float) -> "Seconds":
        """Of so many."""
        return Seconds(*(count * seconds for seconds in self))

    def plus(self, other: "Seconds") -> "Seconds":
        """Of both, one after the other."""
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))


class Forecast(NamedTuple):
    """What a step is expected to take.

    Attributes:
      base: seconds of a step without coordinates; where time does not follow from them, of a step.
      leaves: ``{leaf path: seconds of one coordinate}``; empty where none were timed.
      query: seconds of one evaluation of the loss, about.
      num_timed: leaves that were timed.
    """

    base: Seconds
    leaves: Mapping[str, Seconds]
    query: float
    num_timed: int = 0

    def step(self, counts: Mapping[str, int]) -> Seconds:
        """A step of so many coordinates a leaf."""
        total = self.base
        for path, seconds in self.leaves.items():
            total = total.plus(seconds.times(counts[path]))
        return total


def forecast(
    step: TrainStep, state: TrainState, counts: Mapping[str, int], costs: Mapping[str, float]
) -> Forecast:
    """Estimates the seconds of a step from parts of it, which are compiled and run.

    Args:
      step: of a loss that asks no black box.
      state: placed.
      counts: ``{leaf path: coordinates of a step}``, which say what is worth timing.
      costs: ``{leaf path: price of one coordinate}``, in a unit that time grows with.

    Returns:
      The forecast. Between two timed leaves seconds grow linearly with the price; ``least`` and
      ``most`` are what either of their two rates, seconds by price, would give.

    **Cost**: a few steps on a part of their coordinates or directions.
    """
    estimator = step.estimator
    if isinstance(estimator, DirectionEstimator):
        return _of_directions(step, state, estimator)
    if estimator.chunk_sizes is None:
        return _of_whole(step, state, estimator)
    chosen = timed_leaves(counts, costs)
    base, measured = _time_leaves(step, state, chosen)
    return Forecast(base, interpolated(measured, costs), base.likely, len(chosen))


def timed_leaves(counts: Mapping[str, int], costs: Mapping[str, float]) -> list[str]:
    """Leaves on which the time of a step depends most, from cheap to dear; few of them.

    The leaves, ordered by price, are cut into parts of equal price; of each part the one in its
    middle is taken. Prices say little of the cheapest leaves, whose time is that of a loop that
    goes round: of those the two with the most coordinates are taken as well.
    """
    order = sorted((path for path in counts if counts[path]), key=lambda path: costs[path])
    if len(order) <= _PARTS + _CHEAPEST:
        return order
    shares = np.cumsum([counts[path] * costs[path] for path in order])
    places = np.searchsorted(shares, (np.arange(_PARTS) + 0.5) / _PARTS * shares[-1])
    chosen = {order[place] for place in places}
    cheaper = order[: int(places[0])]
    chosen |= set(sorted(cheaper, key=lambda path: counts[path])[-_CHEAPEST:])
    return [path for path in order if path in chosen]


def interpolated(measured: Mapping[str, Seconds], costs: Mapping[str, float]) -> dict[str, Seconds]:
    """Seconds of a coordinate of every leaf from those of some.

    Args:
      measured: ``{leaf path: seconds}`` of some leaves.
      costs: prices of all.
    """
    known = sorted(measured, key=lambda path: costs[path])
    points = [(costs[path], measured[path]) for path in known]
    at_price = lambda price: _at_price(price, points) if points else Seconds(0.0, 0.0, 0.0)
    return {path: measured.get(path) or at_price(price) for path, price in costs.items()}


def _at_price(price: float, points: Sequence[tuple[float, Seconds]]) -> Seconds:
    """Seconds at a price from those at others, which rise."""
    right = int(np.searchsorted([at for at, _ in points], price))
    (low, cheap), (high, dear) = points[max(right - 1, 0)], points[min(right, len(points) - 1)]
    as_cheap, as_dear = (
        seconds.times(price / at) if at else seconds for at, seconds in ((low, cheap), (high, dear))
    )
    if right == len(points):
        return as_dear
    if right == 0:  # nobody knows how much of that time does not fall with the price
        likely = (as_cheap.likely + cheap.likely) / 2
        return Seconds(likely, as_cheap.least, cheap.most)
    part = (price - low) / (high - low)
    likely = (1 - part) * cheap.likely + part * dear.likely
    # Either rate may hold; but what is dearer takes no less time.
    least = max(min(as_cheap.least, as_dear.least), min(cheap.least, dear.least))
    most = min(max(as_cheap.most, as_dear.most), max(cheap.most, dear.most))
    return Seconds(likely, min(least, likely), max(most, likely))


def _time_leaves(
    step: TrainStep, state: TrainState, chosen: Sequence[str]
) -> tuple[Seconds, dict[str, Seconds]]:
    """Seconds of a step without coordinates, and of a coordinate of each leaf, cheapest first."""
    leaves, treedef = jax.tree.flatten(state.params)
    paths = leaf_paths(state.params)
    sizes = {
        path: int(np.size(leaf)) if path in chosen else 0
        for path, leaf in zip(paths, leaves, strict=True)
    }
    coordinates = treedef.unflatten([jnp.arange(n, dtype=jnp.int32) for n in sizes.values()])
    run = _compiled(step, state, coordinates)

    def measure(path: str | None = None, count: int = 0) -> float:
        counts = [count if path == name else 0 for name in paths]
        return timed(run, first_coordinates(state.params, coordinates, counts))

    measure()
    bases = [measure() for _ in range(3)]
    empty = min(bases)
    found: dict[str, Seconds] = {}
    expected = 0.0
    for path in reversed(chosen):
        added = lambda count, path=path: max(measure(path, count) - empty, 1e-9)
        found[path] = _of_coordinate(added, sizes[path], max(0.1, 0.7 * empty), expected)
        expected = found[path].likely  # a cheaper one takes less
    return Seconds(empty, empty, max(bases)), found


def _of_coordinate(
    added: Callable[[int], float], size: int, wanted: float, expected: float
) -> Seconds:
    """Seconds of one coordinate.

    Args:
      added: ``(count) -> seconds`` that so many coordinates add to a step.
      size: most of them.
      wanted: seconds to add, so that they stand out from the noise of a step.
      expected: seconds of one, or 0.
    """
    count = min(size, math.ceil(wanted / expected) if expected else 4)
    seconds = added(count)
    while count < size and seconds < 0.7 * wanted:
        count = min(size, math.ceil(count * min(max(wanted / seconds, 2), 16)))
        seconds = added(count)
    found = sorted([seconds, added(count)])
    if found[1] > 1.2 * found[0]:  # something else was running
        found = sorted([*found, added(count), added(count)])
    return _between(found[0] / count, found[1] / count)


def _of_directions(step: TrainStep, state: TrainState, estimator: DirectionEstimator) -> Forecast:
    """From steps of fewer directions, where those of all take long."""
    settings = estimator.settings
    devices, wanted = settings.get("num_devices", 1), settings.get("num_directions")
    if not isinstance(devices, int) or not isinstance(wanted, int):
        return _of_whole(step, state, estimator)

    def of(part: int) -> tuple[int, float]:
        """Directions on each device where only every ``part``-th is run, and seconds of that."""

        def summand(loss, params, key, coordinates, whole):
            of = whole._replace(of=whole.of * part)
            return estimator.summand(loss, params, key, coordinates, of)

        fewer = dataclasses.replace(estimator, summand=summand)
        return -(-wanted // (devices * part)), _of_whole(step, state, fewer).base.least

    few, seconds = of(max(1, wanted // (2 * devices)))
    every = -(-wanted // devices)
    if every <= 4 * few or seconds * every / few < _SHORT:
        return _of_whole(step, state, estimator)
    more, longer = of(max(1, wanted // (8 * devices)))
    one = max(longer - seconds, 1e-9) / (more - few)
    base = max(seconds - few * one, 0.0)
    likely = base + every * one
    # At most as if nothing of the shorter step were done once for all.
    return Forecast(Seconds(likely, likely, max(likely, every / few * seconds)), {}, one)


def _of_whole(step: TrainStep, state: TrainState, estimator: Estimator) -> Forecast:
    """From three steps, the first left out."""
    coordinates = all_coordinates(state.params)
    run = _compiled(dataclasses.replace(step, estimator=estimator), state, coordinates)
    _, once, again = (timed(run, coordinates) for _ in range(3))
    passes = max(estimator.num_queries(0), 1)
    return Forecast(_between(once, again), {}, min(once, again) / passes)


def _compiled(step: TrainStep, state: TrainState, coordinates: PyTree) -> RunAt:
    """A step at given coordinates, all that it does beside the estimate included."""
    step = dataclasses.replace(step, sampler=fixed_sampler(coordinates))
    state, data = state._replace(sampler_state=()), step.place(step.task.data)
    place = lambda part: Selection(step.place(part))
    advance = jax.jit(step.advance).lower(state, place(coordinates), data).compile()
    return lambda part: advance(state, place(part), data)


def _between(once: float, again: float) -> Seconds:
    """Other work on the machine only ever adds to a time."""
    return Seconds(min(once, again), min(once, again), max(once, again))
