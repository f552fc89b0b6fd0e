"""The plan of a run, printed before it starts: what a step costs, measured on a few chunks."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from deepzero_jax.coordinates import coordinates_per_leaf, first_coordinates
from deepzero_jax.estimators import Estimator
from deepzero_jax.estimators.contract import Loss
from deepzero_jax.sampling import Share
from deepzero_jax.sharding import agree

PyTree = Any


class LeafPlan(NamedTuple):
    """Coordinates of one leaf.

    Attributes:
      path: leaf path.
      shape: of the leaf.
      num_coordinates: perturbed in a step.
      share: price, rate and share of the step, where the sampler knows them.
    """

    path: str
    shape: tuple[int, ...]
    num_coordinates: int
    share: Share | None = None


class Plan(NamedTuple):
    """What a run will cost.

    Attributes:
      leaves: coordinates, leaf by leaf.
      num_parameters: of the model.
      queries_per_step: evaluations of the loss on a batch.
      num_steps: of the whole run.
      extra_queries: spent once, before the first step.
      seconds_per_step: measured on a sample of its chunks and extrapolated.
      compile_seconds: spent on compiling the step.
    """

    leaves: list[LeafPlan]
    num_parameters: int
    queries_per_step: int
    num_steps: int
    extra_queries: int
    seconds_per_step: float
    compile_seconds: float

    def __str__(self) -> str:
        """The plan as a table and a few lines."""
        width = max((len(leaf.path) for leaf in self.leaves), default=4)
        chosen = sum(leaf.num_coordinates for leaf in self.leaves)
        priced = any(leaf.share for leaf in self.leaves)
        columns = f"  {'price':>9}  {'rate':>6}  {'share':>6}" if priced else ""
        lines = [f"{'leaf':<{width}}  {'shape':>14}  {'coordinates':>16}{columns}"]
        for leaf in self.leaves:
            size = int(np.prod(leaf.shape))
            shape = "×".join(map(str, leaf.shape)) or "scalar"
            taken = f"{leaf.num_coordinates:,} of {size:,}"
            line = f"{leaf.path:<{width}}  {shape:>14}  {taken:>16}"
            if leaf.share:
                price, rate, share = leaf.share
                line += f"  {price:>9.3g}  {rate:>6.3f}  {100 * share:>4.1f} %"
            lines.append(line)
        total = self.queries_per_step * self.num_steps + self.extra_queries
        lines += [
            f"parameters    {self.num_parameters:,}, of which a step perturbs {chosen:,}",
            f"queries       {self.queries_per_step:,} a step × {self.num_steps:,} steps"
            + (f" + {self.extra_queries:,} for pruning" if self.extra_queries else "")
            + f" = {total:,}",
            f"time          {format_seconds(self.seconds_per_step)} a step (measured), "
            f"compiled in {format_seconds(self.compile_seconds)}",
            f"ETA           {format_seconds(self.seconds_per_step * self.num_steps)} for the "
            "whole run, evaluation not counted",
        ]
        return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    """Seconds in the unit a person would say: ``"320 ms"``, ``"41.0 s"``, ``"1 h 40 min"``."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


def sampled_seconds(
    run: Callable[[PyTree], Any], params: PyTree, coordinates: PyTree, chunk_sizes: list[int]
) -> float:
    """Seconds of a step, from runs of it on an even sample of its chunks.

    The sample takes the same share of every leaf and grows until it takes clearly longer
    than a step without coordinates, whose time jitters; leaf by leaf that jitter would
    be multiplied by the number of coordinates.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step; coordinates may be padded.
      params: pytree of arrays.
      coordinates: the step's coordinates.
      chunk_sizes: coordinates evaluated side by side, leaf by leaf.
    """
    valid = list(coordinates_per_leaf(params, coordinates).values())

    def measure(share: float) -> float:
        counts, carried = [], 0.0
        for num_valid, chunk in zip(valid, chunk_sizes, strict=True):
            # What rounding leaves over goes to the next leaf, most often of the same layer.
            wanted = share * -(-num_valid // chunk) + carried
            carried = wanted - int(wanted + 1e-9)
            counts.append(min(int(wanted + 1e-9) * chunk, num_valid))
        return _seconds(run, first_coordinates(params, coordinates, counts))

    measure(0.0)
    empty = float(np.median([measure(0.0) for _ in range(3)]))
    share = 1 / 32
    while share < 1:
        seconds = measure(share)
        if seconds - empty >= max(0.3, 3 * empty):
            return empty + (seconds - empty) / share
        share *= 2
    return float(np.median([measure(1.0) for _ in range(3)]))


def coordinate_seconds(
    run: Callable[[PyTree], Any], params: PyTree, coordinates: PyTree
) -> tuple[float, dict[str, float]]:
    """Measures what one coordinate of each leaf costs on this machine.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step; coordinates may be padded.
      params: pytree of arrays.
      coordinates: every leaf has at least one.

    Returns:
      Seconds of a step without coordinates, and ``{leaf path: seconds of a coordinate}``.
      A leaf is run with more and more coordinates until it stands out from the noise.
    """
    valid = coordinates_per_leaf(params, coordinates)

    def measure(position: int, count: int) -> float:
        counts = [count if i == position else 0 for i in range(len(valid))]
        return _seconds(run, first_coordinates(params, coordinates, counts))

    def added_seconds(position: int, count: int, repeats: int) -> float:
        pairs = [(measure(0, 0), measure(position, count)) for _ in range(repeats)]
        return float(np.median([with_leaf - without for without, with_leaf in pairs]))

    measure(0, 0)
    empty = float(np.median([measure(0, 0) for _ in range(9)]))
    seconds = {}
    for position, (path, size) in enumerate(valid.items()):
        count = min(size, 16)
        while True:
            added = added_seconds(position, count, repeats=3)
            if count == size or added > max(0.05, empty):
                break
            count = min(size, 4 * count)
        if added < 2 * empty:  # it hardly stands out: look more often
            added = added_seconds(position, count, repeats=9)
        seconds[path] = max(added, 1e-9) / count
    return empty, seconds


def step_seconds(
    run: Callable[[PyTree], Any],
    params: PyTree,
    coordinates: PyTree,
    estimator: Estimator,
    loss: Loss,
) -> float:
    """Seconds of a step: from a sample of its chunks if the estimator has any, else of the whole.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step; coordinates may be padded.
      params: pytree of arrays.
      coordinates: the step's coordinates.
      estimator: of the step.
      loss: on the step's batch, of which the shapes are enough.
    """
    if estimator.chunk_sizes is None:
        _seconds(run, coordinates)
        return _seconds(run, coordinates)
    chunk_sizes = estimator.chunk_sizes(loss, params, coordinates)
    return sampled_seconds(run, params, coordinates, chunk_sizes)


def _seconds(run: Callable[[PyTree], Any], coordinates: PyTree) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(coordinates))
    # Decisions that follow from it must be the same in every process.
    return agree(time.perf_counter() - start)


def make_plan(
    run: Callable[[PyTree], Any],
    params: PyTree,
    coordinates: PyTree,
    estimator: Estimator,
    loss: Loss,
    shares: Mapping[str, Share] | None = None,
    **totals: Any,
) -> Plan:
    """Measures a compiled step and sums up the run.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step.
      params: pytree of arrays.
      coordinates: the first step's coordinates.
      estimator: of the step.
      loss: on the step's batch, of which the shapes are enough.
      shares: as the sampler gives them, or None.
      **totals: the remaining fields of ``Plan`` but ``seconds_per_step``.
    """
    seconds = step_seconds(run, params, coordinates, estimator, loss)
    counts = coordinates_per_leaf(params, coordinates)
    plans = [
        LeafPlan(path, np.shape(leaf), count, shares.get(path) if shares else None)
        for leaf, (path, count) in zip(jax.tree.leaves(params), counts.items(), strict=True)
    ]
    return Plan(leaves=plans, seconds_per_step=seconds, **totals)
