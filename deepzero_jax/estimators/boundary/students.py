"""A student of a black box: fitted to what its queries have told, to correct them with."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox import BlackBoxError, HostCall
from deepzero_jax.counts import check_count
from deepzero_jax.estimators.boundary.layout import Layout
from deepzero_jax.types import Array, Key, Params, PyTree

if TYPE_CHECKING:
    import optax


class Secants(NamedTuple):
    """Differences of a function, one in each row.

    Attributes:
      inputs: leaves [n, …] of the inputs at the base.
      moves: how far each floating-point leaf went, [n, …]; zeros where it did not.
      outputs: floating-point leaves [n, …] of the answers at the base.
      differences: of the answers, likewise.
    """

    inputs: Sequence[Array]
    moves: Sequence[Array]
    outputs: Sequence[Array]
    differences: Sequence[Array]


class Record:
    """Keeps the last differences that backward passes have asked for, on the host.

    Every query of a backward pass tells the difference of all outputs along a direction, of
    which the pass needs one number only. Give a record to ``differentiable(record=…)``, and
    fit a student to it by ``fit_surrogate``.

    Args:
      capacity: rows that are kept, the newest; each holds inputs and outputs twice.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self.capacity = check_count("capacity", capacity)
        self.treedef: PyTree = None
        self._kinds: PyTree = None
        self._rows: tuple[list[np.ndarray], ...] | None = None
        self._count = 0

    def __len__(self) -> int:
        """Rows that are kept."""
        return min(self._count, self.capacity)

    def add(self, rows: Secants, treedef: PyTree) -> None:
        """Takes in rows; those with numbers that are not finite are left out.

        Args:
          rows: of one call of the box.
          treedef: of the inputs, a tuple of positional arguments.
        """
        kinds = [[(leaf.shape[1:], leaf.dtype) for leaf in leaves] for leaves in rows]
        if self._rows is not None and (treedef, kinds) != (self.treedef, self._kinds):
            raise BlackBoxError(
                "a record holds rows of one function: its inputs and outputs have other shapes or "
                "types than those before; give each function a record of its own"
            )
        self.treedef, self._kinds = treedef, kinds
        sound = np.ones(len(rows.inputs[0]), bool)
        for leaf in itertools.chain(*rows):
            sound &= np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
        chosen = np.flatnonzero(sound)[-self.capacity :]
        rows = Secants(*([leaf[chosen] for leaf in leaves] for leaves in rows))
        if self._rows is None:
            self._rows = tuple([_room(x, self.capacity) for x in leaves] for leaves in rows)
        places = (self._count + np.arange(len(chosen))) % self.capacity
        for room, leaves in zip(self._rows, rows, strict=True):
            for kept, leaf in zip(room, leaves, strict=True):
                kept[places] = np.asarray(leaf)
        self._count += len(chosen)

    def rows(self) -> Secants:
        """Room for ``capacity`` rows, of which ``len(record)`` are filled.

        Raises:
          ValueError: nothing yet.
        """
        if self._rows is None:
            raise ValueError("the record is empty: take a gradient of the function first")
        return Secants(*self._rows)


def _room(leaf: Array, capacity: int) -> np.ndarray:
    return np.zeros((capacity, *leaf.shape[1:]), np.asarray(leaf).dtype)


def secants(
    call: HostCall,
    layout: Layout,
    floating: Sequence[int],
    base: tuple[Sequence[np.ndarray], np.ndarray],
    moved: tuple[np.ndarray, np.ndarray],
) -> Secants:
    """Rows of what one call of a backward pass was answered, for units that are samples.

    Args:
      call: the query at the base.
      layout: of the numbers that moved.
      floating: which outputs are floating-point.
      base: leaves of the inputs [c, u, …] and answers [c, u, p].
      moved: how far the numbers went [c, u, k, m], and differences of the answers [c, u, k, p].
    """
    (leaves, answers), (spans, differences) = base, moved
    front = spans.shape[:3]

    def repeated(leaf: np.ndarray) -> np.ndarray:
        whole = np.broadcast_to(leaf[:, :, None], (*front, *leaf.shape[2:]))
        return whole.reshape((-1, *leaf.shape[2:]))

    def split(vectors: np.ndarray) -> list[np.ndarray]:
        flat, found, start = vectors.reshape((-1, vectors.shape[-1])), [], 0
        for shape in (call.box.outputs.shapes[i] for i in floating):
            size = math.prod(shape)
            found.append(flat[:, start : start + size].reshape((-1, *shape)))
            start += size
        return found

    inputs, moves = [repeated(np.asarray(leaf)) for leaf in leaves], []
    parts = dict(zip(layout.moving, np.split(spans, np.cumsum(layout.sizes)[:-1], -1), strict=True))
    for position, leaf in enumerate(inputs):
        if position in parts:
            moves.append(parts[position].reshape(leaf.shape))
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            moves.append(np.zeros_like(leaf))
    return Secants(inputs, moves, split(repeated(answers)), split(differences))


class Fitted(NamedTuple):
    """A student after some steps.

    Attributes:
      params: of the student.
      opt_state: of the optimiser, to go on with.
      loss: mean squared error of its slopes, in units of those of the box: 1 is no student.
    """

    params: Params
    opt_state: PyTree
    loss: jax.Array


def fit_surrogate(
    student: Callable[..., PyTree],
    params: Params,
    record: Record,
    key: Key,
    *,
    optimizer: "optax.GradientTransformation | None" = None,
    opt_state: PyTree | None = None,
    num_steps: int = 100,
    batch_size: int = 64,
) -> Fitted:
    """Fits a student to the differences that a box has been asked for anyway.

    The loss is the squared distance of the student's slopes ``J_s u`` to the box's along the
    same moves. The student is then the ``surrogate`` of ``differentiable``, which corrects
    it, so that a bad one costs accuracy and no bias. No query is asked.

    Args:
      student: ``(params, *inputs) -> outputs``, like those of the box.
      params: of the student.
      record: that was given to ``differentiable``.
      key: of the batches, consumed.
      optimizer: from optax; None for Adam at 1e-3.
      opt_state: what an earlier call returned, or None.
      num_steps: of the optimiser.
      batch_size: differences a step.

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp, numpy as np, optax
      >>> box = dz.black_box(lambda x: 3 * x, (2,), dtype="float64")
      >>> student, record = lambda w, x: w * x, dz.Record()
      >>> f = dz.differentiable(box, dz.rge(num_directions=4), record=record)
      >>> loss = lambda x, key: jnp.sum(f(x, key=key))
      >>> _ = jax.grad(loss)(jnp.ones((8, 2)), jax.random.key(0))
      >>> fitted = dz.fit_surrogate(student, jnp.zeros(2), record, jax.random.key(1),
      ...                           optimizer=optax.adam(0.1))
      >>> print(fitted.params.round(1), len(record))
      [3. 3.] 32
    """
    import optax  # here: loading it takes long

    rows, count = record.rows(), len(record)
    optimizer = optimizer or optax.adam(1e-3)
    opt_state = optimizer.init(params) if opt_state is None else opt_state
    # Slopes, in units of those of the box.
    lengths = _lengths(rows.moves)
    size_of = lambda d: np.sqrt(np.sum(_squares(d) / lengths**2) / (count * d[0].size))
    found = [float(size_of(d)) for d in rows.differences]
    sizes = [max(size, 1e-30) if size else 1.0 for size in found]  # 1: of an output that stays
    data = Secants(
        rows.inputs,
        [_over(leaf, lengths) for leaf in rows.moves],
        [],
        [_over(d, lengths * size) for d, size in zip(rows.differences, sizes, strict=True)],
    )
    run = _Run(student, optimizer, record.treedef, batch_size)
    known = [jnp.float32(1 / size) for size in sizes], jnp.int32(count)
    return _fit(run, params, opt_state, data, *known, jax.random.split(key, num_steps))


def _lengths(moves: Sequence[Array]) -> np.ndarray:
    lengths = np.sqrt(sum(_squares(leaf) for leaf in moves))
    return np.where(lengths == 0, 1.0, lengths)


def _squares(leaf: Array) -> np.ndarray:
    return np.sum(np.square(np.asarray(leaf, np.float64).reshape((len(leaf), -1))), axis=1)


def _over(leaf: Array, lengths: np.ndarray) -> np.ndarray:
    return np.asarray(leaf / lengths.reshape((-1,) + (1,) * (leaf.ndim - 1)), np.float32)


class _Run(NamedTuple):
    """What a compiled fit is compiled for."""

    student: Callable[..., PyTree]
    optimizer: "optax.GradientTransformation"
    treedef: PyTree
    batch_size: int


@partial(jax.jit, static_argnums=0)
def _fit(
    run: _Run,
    params: Params,
    opt_state: PyTree,
    data: Secants,
    units: Sequence[jax.Array],
    count: jax.Array,
    keys: Key,
) -> Fitted:
    import optax

    apply = lambda params, leaves: run.student(params, *run.treedef.unflatten(leaves))

    def loss(params: Params, batch: Secants) -> jax.Array:
        errors = zip(_slopes(apply, params, batch), batch.differences, units, strict=True)
        return sum((jnp.mean((unit * s - d) ** 2) for s, d, unit in errors), jnp.zeros(()))

    def step(carry: tuple[Params, PyTree], key: Key) -> tuple[tuple[Params, PyTree], jax.Array]:
        params, opt_state = carry
        chosen = jax.random.randint(key, (run.batch_size,), 0, count)
        batch = jax.tree.map(lambda leaf: leaf[chosen], data)
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = run.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value / len(units)

    (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), keys)
    return Fitted(params, opt_state, jnp.mean(losses[-10:]))


def _slopes(
    apply: Callable[[Params, Sequence[jax.Array]], PyTree], params: Params, batch: Secants
) -> Sequence[jax.Array]:
    """Of the student along the moves: one leaf for each floating-point output."""
    floating = [i for i, x in enumerate(batch.inputs) if jnp.issubdtype(x.dtype, jnp.floating)]

    def outputs(moving: Sequence[jax.Array]) -> list[jax.Array]:
        inputs = [jnp.asarray(leaf) for leaf in batch.inputs]
        for position, leaf in zip(floating, moving, strict=True):
            inputs[position] = leaf
        found = jax.tree.leaves(apply(params, inputs))
        return [leaf for leaf in found if jnp.issubdtype(leaf.dtype, jnp.floating)]

    primals = [jnp.asarray(batch.inputs[i]) for i in floating]
    tangents = [m.astype(p.dtype) for m, p in zip(batch.moves, primals, strict=True)]
    return jax.jvp(outputs, (primals,), (tangents,))[1]
