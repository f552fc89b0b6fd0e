"""Seconds of a step, measured on few of its coordinates."""

import time
from collections.abc import Callable

import jax
import numpy as np

from deepzero_jax.bars import tell
from deepzero_jax.coordinates import coordinates_per_leaf, first_coordinates
from deepzero_jax.estimators import Estimator, Loss
from deepzero_jax.sharding import agree
from deepzero_jax.types import Params, PyTree

# Runs one compiled step at some coordinates, which may be padded.
RunAt = Callable[[PyTree], PyTree]


def sampled_seconds(
    run: RunAt, params: Params, coordinates: PyTree, chunk_sizes: list[int]
) -> float:
    """Seconds of a step, from runs of it on an even sample of its chunks.

    The sample takes the same fraction of every leaf and grows until it takes clearly longer
    than a step without coordinates, whose time jitters; leaf by leaf that jitter would
    be multiplied by the number of coordinates.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step; coordinates may be padded.
      params: pytree of arrays.
      coordinates: the step's coordinates.
      chunk_sizes: coordinates evaluated side by side, leaf by leaf.
    """
    valid = list(coordinates_per_leaf(params, coordinates).values())

    def measure(fraction: float) -> float:
        counts, carried = [], 0.0
        for num_valid, chunk in zip(valid, chunk_sizes, strict=True):
            # What rounding leaves over goes to the next leaf, most often of the same layer.
            wanted = fraction * -(-num_valid // chunk) + carried
            carried = wanted - int(wanted + 1e-9)
            counts.append(min(int(wanted + 1e-9) * chunk, num_valid))
        return timed(run, first_coordinates(params, coordinates, counts))

    measure(0.0)
    empty = float(np.median([measure(0.0) for _ in range(3)]))
    fraction = 1 / 32
    while fraction < 1:
        seconds = measure(fraction)
        if seconds - empty >= max(0.3, 3 * empty):
            return empty + (seconds - empty) / fraction
        fraction *= 2
    return float(np.median([measure(1.0) for _ in range(3)]))


def coordinate_seconds(
    run: RunAt, params: Params, coordinates: PyTree
) -> tuple[float, dict[str, float]]:
    """Measures what one coordinate of each leaf costs on this machine.

    Args:
      run: ``(coordinates) -> arrays``, one compiled step; coordinates may be padded.
      params: pytree of arrays.
      coordinates: every leaf has at least one.

    Returns:
      Seconds of a step without coordinates, and ``{leaf path: seconds of a coordinate}``.
      A leaf is run with more and more coordinates until it stands out from the noise; a bar
      around the call is told of each.
    """
    valid = coordinates_per_leaf(params, coordinates)

    def measure(position: int, count: int) -> float:
        counts = [count if i == position else 0 for i in range(len(valid))]
        return timed(run, first_coordinates(params, coordinates, counts))

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
        tell(1, len(valid), "leaves")
    return empty, seconds


def step_seconds(
    run: RunAt,
    params: Params,
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
        timed(run, coordinates)
        return timed(run, coordinates)
    chunk_sizes = estimator.chunk_sizes(loss, params, coordinates)
    return sampled_seconds(run, params, coordinates, chunk_sizes)


def timed(run: RunAt, coordinates: PyTree) -> float:
    """Seconds of one step at some coordinates, the same number in every process."""
    start = time.perf_counter()
    jax.block_until_ready(run(coordinates))
    # Decisions that follow from it must be the same in every process.
    return agree(time.perf_counter() - start)
