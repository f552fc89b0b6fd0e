"""A function that can only be queried, as JAX sees it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox.answers import Outputs
from deepzero_jax.blackbox.asking import Asking, Pause
from deepzero_jax.blackbox.call import HostCall, answered, as_input, query, widened, widened_dtype
from deepzero_jax.blackbox.counters import Counters
from deepzero_jax.blackbox.engines import Engine, GiveUp, InPlace
from deepzero_jax.blackbox.errors import pass_on_interrupt
from deepzero_jax.blackbox.executors import Executed
from deepzero_jax.blackbox.mapped import Mapped
from deepzero_jax.blackbox.options import OnFailure, Options, Workers
from deepzero_jax.blackbox.threads import Threads
from deepzero_jax.types import PyTree

# Samples as NumPy trees [n, …] -> answers [n, …] (without n where ``batched=False``).
HostFunction = Callable[..., PyTree]


class BlackBox:
    """A query-only function, made by ``black_box``.

    Counts are of what the host function was really asked: ``num_samples`` sent, failed
    attempts included (the ``budget`` counts these), of which ``num_answered``, ``num_failed``
    and ``num_dropped``; ``num_calls`` of the host function; ``num_abandoned`` calls that were
    given up while they ran.
    """

    def __init__(
        self, host_fn: HostFunction, outputs: Outputs, options: Options, budget: int | None
    ) -> None:
        self._host_fn, self.outputs, self.options = host_fn, outputs, options
        self._counters, self._pause = Counters(budget), Pause()
        self._engine = _engine(options, getattr(host_fn, "give_up", None))
        in_this_process = isinstance(self._engine, InPlace | Threads)
        alone = in_this_process and not (options.thread_safe or False)
        self._lock = threading.Lock() if alone else None

    @property
    def num_samples(self) -> int:
        """Samples sent, failed attempts included."""
        return self._counters.num_samples

    @property
    def num_answered(self) -> int:
        """Samples of which the answer was used."""
        return self._counters.num_answered

    @property
    def num_failed(self) -> int:
        """Samples sent for which no usable answer came."""
        return self._counters.num_samples - self._counters.num_answered

    @property
    def num_calls(self) -> int:
        """Calls of the host function, failed ones included."""
        return self._counters.num_calls

    @property
    def num_abandoned(self) -> int:
        """Calls that were given up while they ran."""
        return self._counters.num_abandoned

    @property
    def num_dropped(self) -> int:
        """Samples that were answered by NaN, with ``on_failure="nan"``."""
        return self._counters.num_dropped

    @property
    def budget(self) -> int | None:
        """Samples that may be sent in all; it may be set anew."""
        return self._counters.budget

    @budget.setter
    def budget(self, budget: int | None) -> None:
        self._counters.set_budget(budget)

    def counts(self) -> dict[str, int]:
        """All counts, as JSON can hold them, for a checkpoint."""
        return self._counters.dump()

    def restore(self, counts: Mapping[str, int]) -> None:
        """Takes over what ``counts`` gave, when a run is resumed."""
        self._counters.load(counts)

    def leave_out(self, num_samples: int) -> None:
        """Counts answered samples as without an answer: JAX does not hold theirs."""
        self._counters.drop(num_samples, answered=num_samples)

    def own_counts(self) -> dict[str, int]:
        """All counts without those that ``add_counts`` has added."""
        return self._counters.dump_own()

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Adds what the box was asked elsewhere, in another process."""
        self._counters.add_elsewhere(counts)

    def __call__(self, *inputs: PyTree) -> PyTree:
        """Queries the box; under ``vmap`` all copies are asked in one call.

        Args:
          *inputs: pytrees of arrays [n, …], n the same for all; without n where
            ``batched=False``.

        Returns:
          The answers, like the declared ``output``, each leaf [n, *shape].

        Raises:
          TypeError, ValueError: inputs without a common number of samples, or whole numbers
            beyond what JAX holds.
          BlackBoxError: no usable answer; under ``jit``, see ``box_errors``.
        """
        leaves, treedef = jax.tree.flatten(inputs)
        leaves = [as_input(leaf) for leaf in leaves]
        call = self.host_call(leaves, treedef)
        return answered(leaves, lambda: call.outputs(query(call, leaves)))

    def host_call(self, leaves: Sequence[Any], treedef: PyTree) -> HostCall:
        """One query at inputs of given shapes, as a callback can make it.

        Args:
          leaves: of the inputs, arrays or ``jax.ShapeDtypeStruct``.
          treedef: of the inputs, a tuple of positional arguments.

        Raises:
          TypeError, ValueError: as of a call.
        """
        if not leaves:
            raise TypeError("a black box needs an input: pass at least one array")
        if check := getattr(self._host_fn, "check_dtypes", None):
            check(*treedef.unflatten(map(self._sent, leaves)))
        if not self.options.batched:
            return HostCall.of(self, treedef, tuple(leaf.ndim for leaf in leaves), None)
        if any(leaf.ndim == 0 for leaf in leaves):
            raise ValueError(
                "a black box takes batches: inputs need a first axis of samples; give "
                "batched=False for one that takes a single sample"
            )
        counts = {leaf.shape[0] for leaf in leaves}
        if len(counts) > 1:
            raise ValueError(f"inputs must have the same number of samples, got {sorted(counts)}")
        return HostCall.of(self, treedef, tuple(leaf.ndim for leaf in leaves), counts.pop())

    def _sent(self, leaf: Any) -> jax.ShapeDtypeStruct:
        """An input as the host function is given it."""
        dtype = widened_dtype(leaf.dtype) if self.outputs.is_double else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    def answer(self, treedef: PyTree, samples: list[np.ndarray], count: int) -> list[np.ndarray]:
        """The answers to ``count`` samples, flat leaves [count, …]; for callbacks."""
        if self.outputs.is_double:
            samples = [widened(leaf) for leaf in samples]
        single = not self.options.batched

        def arguments(rows: np.ndarray) -> tuple[PyTree, ...]:
            # Copies: the host function may change what it is given.
            own = lambda leaf: leaf[rows[0]].copy() if single else leaf[rows]
            return treedef.unflatten(list(map(own, samples)))

        asking = Asking(
            self._host_fn, self.outputs, self.options, self._counters, self._engine, self._pause
        )
        alone: AbstractContextManager[Any] = self._lock or nullcontext()
        try:
            with alone:
                return asking.answers(arguments, count)
        except KeyboardInterrupt:
            pass_on_interrupt()
            raise

    def __repr__(self) -> str:
        """Host function, answers and counts on one line."""
        name = getattr(self._host_fn, "__qualname__", type(self._host_fn).__name__)
        shown = [
            f"{key}={value!r}"
            for key, value in vars(self.options).items()
            if value is not None and value != _DEFAULTS.get(key)
        ]
        limit = "" if self.budget is None else f" of {self.budget:,}"
        return (
            f"black_box({', '.join([name, _described(self.outputs), *shown])}: "
            f"{self.num_samples:,}{limit} samples in {self.num_calls:,} calls)"
        )


_DEFAULTS = {"retries": 2, "backoff": 0.5, "on_failure": "raise", "batched": True}


def _described(outputs: Outputs) -> str:
    leaves = [f"{d}{list(s)}" for s, d in zip(outputs.shapes, outputs.dtypes, strict=True)]
    return str(outputs.treedef.unflatten(leaves)).replace("'", "")


def _engine(options: Options, give_up: GiveUp | None) -> Engine:
    workers = options.workers
    if isinstance(workers, Executor):
        return Executed(workers, give_up)
    if workers is not None and not isinstance(workers, int):
        return Mapped(workers)
    if workers is None and options.timeout is None:
        return InPlace()
    return Threads(workers or 1, options.is_thread_safe, give_up)


def black_box(
    host_fn: HostFunction,
    output: PyTree,
    *,
    dtype: Any = jnp.float32,
    batched: bool = True,
    workers: Workers | None = None,
    max_batch: int | None = None,
    timeout: float | None = None,
    retries: int = 2,
    backoff: float = 0.5,
    budget: int | None = None,
    on_failure: OnFailure = "raise",
    thread_safe: bool | None = None,
) -> BlackBox:
    """Wraps a host function so that a JAX function can query it, and do nothing else with it.

    Args:
      host_fn: ``(*inputs) -> answers``, without JAX. It is given NumPy arrays [n, …] in the
        trees of the call, any n from 1 to ``max_batch``, and answers [n, …]. An error fails
        the call; a ``BlackBoxError``, which says that no call can succeed, ends the asking.
        One that has ``check_dtypes(*inputs)`` is shown the types and shapes of the inputs
        before it is asked, and may refuse them by ``ValueError``; one that has
        ``give_up(thread)`` ends the call that a thread (``threading.get_ident()``) is in; its
        ``thread_safe`` holds where the option of that name is None.
      output: the answer to one sample: a shape, a ``jax.ShapeDtypeStruct``, or a tree of them.
      dtype: of answers declared by their shape. ``"float64"``: the host's own, where JAX has
        none; a propagated difference is moved and subtracted on the host.
      batched: False for a function of one sample without a batch axis.
      workers: a number of threads (above 1 they call ``host_fn`` at the same time), a
        ``concurrent.futures.Executor`` (processes, loky, Dask, MPI), or a callable like
        ``map``; None: one call after the other.
      max_batch: samples a call at most; None: all at once. Workers share the calls.
      timeout: seconds that a call may take, start to whole answer; None: for ever.
      retries: further attempts of a sample that failed by itself; a call that fails is cut
        into smaller ones. One refused for now (``RetryLaterError``) is sent again whole, nothing
        else before the time that it names, until so many attempts in a row have no answer at
        all. 0: no further call.
      backoff: seconds before the first further attempts; they double each time.
      budget: samples that may be sent in all, failed attempts included; None: no limit.
      on_failure: of a sample without an answer: ``"raise"``, or ``"nan"``: its answers are
        NaN, and the slope of its coordinate or direction counts as 0, see ``slopes_dropped``.
      thread_safe: whether ``host_fn`` may run twice at once in this process, also beside a
        call that was given up. None: as ``host_fn`` says, or if ``workers`` are threads.

    Returns:
      A ``BlackBox``: ``box(*inputs) -> answers`` under jit, vmap and scan; ``jax.grad`` raises.

    Raises:
      TypeError, ValueError: an option out of range.

    **Cost**: every evaluation of n samples is n samples of the budget; under ``vmap``, as
    many calls as ``max_batch`` demands.

    Example:
      >>> import deepzero_jax as dz, numpy as np
      >>> box = dz.black_box(lambda x: x.sum(axis=1, keepdims=True), (1,))
      >>> jax.jit(jax.vmap(box))(jnp.ones((4, 2, 3))).shape, box.num_samples, box.num_calls
      ((4, 2, 1), 8, 1)
    """
    if thread_safe is None:
        thread_safe = getattr(host_fn, "thread_safe", None)
    options = Options(
        workers, max_batch, timeout, retries, backoff, on_failure, thread_safe, batched
    )
    outputs = Outputs.declared(output, dtype)
    if on_failure == "nan" and not outputs.all_floating:
        raise ValueError('on_failure="nan" needs floating-point answers, which can be NaN')
    return BlackBox(host_fn, outputs, options, budget)
