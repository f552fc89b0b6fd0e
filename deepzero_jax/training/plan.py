"""The plan of a run, printed before it starts: what a step costs, measured on a few chunks."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.coordinates import leaf_paths

PyTree = Any


class LeafPlan(NamedTuple):
    """Coordinates of one leaf and their measured price.

    Attributes:
      path: leaf path.
      shape: of the leaf.
      num_coordinates: perturbed in a step.
      seconds: a step spends on them; None where prices do not split by leaf.
    """

    path: str
    shape: tuple[int, ...]
    num_coordinates: int
    seconds: float | None


class Plan(NamedTuple):
    """What a run will cost.

    Attributes:
      leaves: coordinates and price, leaf by leaf.
      num_parameters: of the model.
      queries_per_step: evaluations of the loss on a batch.
      num_steps: of the whole run.
      extra_queries: spent once, before the first step.
      seconds_per_step: measured on a few chunks and extrapolated.
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
        lines = [f"{'leaf':<{width}}  {'shape':>14}  {'coordinates':>16}  {'ms each':>8}"]
        for leaf in self.leaves:
            size = int(np.prod(leaf.shape))
            shape = "×".join(map(str, leaf.shape)) or "scalar"
            each = "-"
            if leaf.seconds is not None and leaf.num_coordinates:
                each = f"{1e3 * leaf.seconds / leaf.num_coordinates:.3g}"
            share = f"{leaf.num_coordinates:,} of {size:,}"
            lines.append(f"{leaf.path:<{width}}  {shape:>14}  {share:>16}  {each:>8}")
        total = self.queries_per_step * self.num_steps + self.extra_queries
        lines += [
            f"parameters    {self.num_parameters:,}, of which a step perturbs {chosen:,}",
            f"queries       {self.queries_per_step:,} a step × {self.num_steps:,} steps"
            + (f" + {self.extra_queries:,} for pruning" if self.extra_queries else "")
            + f" = {total:,}",
            f"time          {format_seconds(self.seconds_per_step)} a step (measured on a few "
            f"chunks), compiled in {format_seconds(self.compile_seconds)}",
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
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


def seconds_by_leaf(
    run: Callable[[PyTree], Any], params: PyTree, coordinates: PyTree, chunk_sizes: list[int]
) -> tuple[float, list[float]]:
    """Measures what a step spends on each leaf by running it on a few chunks of that leaf alone.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step; coordinates may be padded.
      params: pytree of arrays.
      coordinates: the step's coordinates.
      chunk_sizes: coordinates evaluated side by side, leaf by leaf.

    Returns:
      Seconds of a step without any coordinate, and the seconds that each leaf adds.
    """
    leaves, treedef = jax.tree.flatten(params)
    chosen = [np.asarray(indices) for indices in treedef.flatten_up_to(coordinates)]
    padding = [np.full_like(c, np.size(leaf)) for c, leaf in zip(chosen, leaves, strict=True)]

    def measure(position: int | None = None, count: int = 0) -> float:
        limited = [p.copy() for p in padding]
        if position is not None:
            limited[position][:count] = chosen[position][:count]
        start = time.perf_counter()
        jax.block_until_ready(run(treedef.unflatten([jnp.asarray(c) for c in limited])))
        return time.perf_counter() - start

    measure()
    empty = float(np.median([measure() for _ in range(3)]))
    enough = max(0.1, 0.3 * empty)
    added = []
    for position, (indices, chunk) in enumerate(zip(chosen, chunk_sizes, strict=True)):
        num_valid = int(np.sum(indices < np.size(leaves[position])))
        num_chunks = -(-num_valid // chunk)
        part, seconds = min(1, num_chunks), 0.0
        while part:
            seconds = max(measure(position, part * chunk) - empty, 0.0)
            if seconds >= enough or part == num_chunks:
                break
            part = min(num_chunks, 4 * part)
        added.append(seconds * num_chunks / max(part, 1))
    return empty, added


def make_plan(
    run: Callable[[PyTree], Any],
    params: PyTree,
    coordinates: PyTree,
    chunk_sizes: list[int] | None,
    **totals: Any,
) -> Plan:
    """Measures a compiled step and sums up the run.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step.
      params: pytree of arrays.
      coordinates: the first step's coordinates.
      chunk_sizes: as the estimator gives them; None: one whole step is timed.
      **totals: the remaining fields of ``Plan`` but ``seconds_per_step``.
    """
    leaves, treedef = jax.tree.flatten(params)
    chosen = treedef.flatten_up_to(coordinates)
    if chunk_sizes is None:
        jax.block_until_ready(run(coordinates))
        start = time.perf_counter()
        jax.block_until_ready(run(coordinates))
        total, by_leaf = time.perf_counter() - start, [None] * len(leaves)
    else:
        empty, by_leaf = seconds_by_leaf(run, params, coordinates, chunk_sizes)
        total = empty + sum(by_leaf)
    plans = [
        LeafPlan(path, np.shape(leaf), int(np.sum(np.asarray(indices) < np.size(leaf))), seconds)
        for path, leaf, indices, seconds in zip(
            leaf_paths(params), leaves, chosen, by_leaf, strict=True
        )
    ]
    return Plan(leaves=plans, seconds_per_step=total, **totals)
