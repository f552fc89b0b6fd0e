"""Devices: a mesh, where values lie on it, and coordinates in shards over it."""

import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from deepzero_jax.types import Array, Params, PyTree

T = TypeVar("T")
COORDINATES, DATA = "coordinates", "data"
# Seconds between two meetings of processes of which one is at work.
_ROUND = 2.0


def make_mesh(
    coordinates: int | None = None, data: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Arranges devices: coordinates of a step over one axis, the batch over the other.

    Args:
      coordinates: devices that share the coordinates; None: all there are, by ``data``.
      data: devices that share one batch, for activations too large for one.
      devices: to arrange; None: all devices of all processes.

    Raises:
      ValueError: numbers below 1, or more devices asked for than there are.

    Example:
      >>> make_mesh(1).shape["coordinates"]
      1
    """
    devices = jax.devices() if devices is None else list(devices)
    if data < 1 or (coordinates is not None and coordinates < 1):
        raise ValueError(
            f"mesh.coordinates and mesh.data must be at least 1, got {coordinates} and {data}"
        )
    if coordinates is None:
        coordinates = max(1, len(devices) // data)
    wanted = coordinates * data
    if wanted > len(devices):
        raise ValueError(
            f"mesh.coordinates × mesh.data = {coordinates} × {data} asks for {wanted} devices; "
            f"there are {len(devices)} ({devices[0].platform})"
        )
    if wanted < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh.coordinates × mesh.data = {coordinates} × {data} leaves devices of other "
            f"processes idle; use all {len(devices)}"
        )
    grid = np.asarray(devices[:wanted]).reshape(coordinates, data)
    return Mesh(grid, (COORDINATES, DATA), axis_types=(AxisType.Auto, AxisType.Auto))


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """Of values that are the same on every device of the mesh; None for no mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same values on every device of the mesh; without one, as they are."""
    return tree if mesh is None else jax.device_put(tree, everywhere(mesh))


def split_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Lays the first axis of every array over the data axis; inside jit."""
    if mesh.shape[DATA] == 1:
        return batch
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), batch)


def shard_coordinates(params: Params, coordinates: PyTree, num_shards: int) -> PyTree:
    """Cuts coordinates into shards, every ``num_shards``-th into the same: [n] to [shards, m].

    Shards are of equal length m = ⌈n / num_shards⌉, filled up with padding, which stays at
    their ends; the numbers of valid coordinates in any two differ by at most one, leaf by
    leaf.

    Args:
      params: pytree of arrays.
      coordinates: pytree like ``params``, int32 [n] a leaf.
      num_shards: how many.

    Example:
      >>> shard_coordinates(jnp.zeros(9), jnp.arange(5), 2).tolist()
      [[0, 2, 4], [1, 3, 9]]
    """

    def one(leaf: Array, indices: jax.Array) -> jax.Array:
        length = -(-indices.shape[0] // num_shards)
        padded = jnp.full(length * num_shards, np.size(leaf), jnp.int32)
        padded = padded.at[: indices.shape[0]].set(indices.astype(jnp.int32))
        return padded.reshape(length, num_shards).T

    return jax.tree.map(one, params, coordinates)


def gather_values(coordinates: PyTree, shards: PyTree) -> PyTree:
    """Inverse of ``shard_coordinates`` for values of the coordinates: [shards, m] to [n].

    Example:
      >>> gather_values(jnp.arange(5), jnp.array([[0, 20, 40], [10, 30, 0]])).tolist()
      [0, 10, 20, 30, 40]
    """
    return jax.tree.map(lambda i, v: v.T.reshape(-1)[: i.shape[0]], coordinates, shards)


def is_lead() -> bool:
    """Whether this process is the one that writes: the first of all."""
    return jax.process_index() == 0


def agree(value: float) -> float:
    """The lead's number, the same in every process; all must call it."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float64(value)))


def any_of(flag: int) -> int:
    """The largest of the numbers that the processes bring; all must call it."""
    if jax.process_count() == 1:
        return flag
    return int(np.max(multihost_utils.process_allgather(np.int32(flag))))


def sums_of(counts: Sequence[int]) -> list[int]:
    """Sums of what the processes bring, place by place; all must call it with as many."""
    if jax.process_count() == 1 or not counts:
        return list(counts)
    # Two halves each, as JAX has no int64 of its own accord.
    halves = np.array([divmod(count, 1 << 24) for count in counts], np.int32)
    of_all = np.asarray(multihost_utils.process_allgather(halves), np.int64)
    return [int(high) * (1 << 24) + int(low) for high, low in of_all.sum(axis=0)]


def by_lead(find: Callable[[], T]) -> T:
    """What the lead finds, in every process; all must call it.

    For what is asked once, however many processes there are. The others meet the lead every few
    seconds, as they could not wait for it in one meeting for longer than the collectives allow.

    Raises:
      Exception: what ``find`` raises, in every process; RuntimeError in the others where it
        cannot be sent.
    """
    if jax.process_count() == 1:
        return find()
    if not is_lead():
        while not any_of(0):
            pass
        return _received()
    done = threading.Event()
    meeting = threading.Thread(target=_meet_until, args=(done,), daemon=True)
    meeting.start()
    failed: BaseException | None = None
    found: Any = None
    try:
        found = find()
    except BaseException as error:  # of which the others wait to hear
        failed = error
    done.set()
    meeting.join()
    _send((failed, found))
    if failed is not None:
        raise failed
    return found


def _meet_until(done: threading.Event) -> None:
    while not done.wait(_ROUND):
        any_of(0)
    any_of(1)


def _send(outcome: tuple[BaseException | None, Any]) -> None:
    """Sends the lead's outcome to ``_received`` of the others."""
    try:
        text = pickle.dumps(outcome)
        pickle.loads(text)
    except Exception:
        text = pickle.dumps((RuntimeError(f"the first process failed: {outcome[0]}"), None))
    multihost_utils.broadcast_one_to_all(np.int32(len(text)))
    multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8))


def _received() -> Any:
    length = int(multihost_utils.broadcast_one_to_all(np.int32(0)))
    text = np.asarray(multihost_utils.broadcast_one_to_all(np.zeros(length, np.uint8))).tobytes()
    failed, found = pickle.loads(text)
    if failed is not None:
        raise failed
    return found
