"""One query of a black box inside a JAX program: what its callback calls, and what comes back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer

from deepzero_jax.blackbox.errors import BlackBoxError, box_errors
from deepzero_jax.blackbox.told import is_told, tell_once
from deepzero_jax.callbacks import call_host
from deepzero_jax.pages import see
from deepzero_jax.types import PyTree

if TYPE_CHECKING:
    from deepzero_jax.blackbox.box import BlackBox

# Below it the second float32 part of an answer is less than float32 holds.
_SMALLEST = float(np.finfo(np.float32).tiny) * 2.0**48


@dataclass(frozen=True)
class HostCall:
    """What the callback of one query calls on the host.

    Attributes:
      box: who answers.
      treedef: structure of the inputs.
      ndims: axes of each input leaf, without those that ``vmap`` adds.
      count: samples, None where ``batched=False``.
      dtypes: that JAX had for the answers when this was made; a callback may run in a thread of
        XLA's, which a context such as ``jax.enable_x64`` does not reach.
    """

    box: "BlackBox"
    treedef: PyTree
    ndims: tuple[int, ...]
    count: int | None
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(
        cls, box: "BlackBox", treedef: PyTree, ndims: tuple[int, ...], count: int | None
    ) -> "HostCall":
        """A query made now."""
        dtypes = tuple(jax.dtypes.canonicalize_dtype(dtype) for dtype in box.outputs.dtypes)
        return cls(box, treedef, ndims, count, dtypes)

    @property
    def num_samples(self) -> int:
        """That one evaluation sends."""
        return 1 if self.count is None else self.count

    @property
    def sample_shapes(self) -> list[tuple[int, ...]]:
        """Of the answers of one evaluation."""
        lead = () if self.count is None else (self.count,)
        return [(*lead, *shape) for shape in self.box.outputs.shapes]

    def num_copies(self, operands: Sequence[ShapedArray], answer: ShapedArray) -> int:
        """For which its callback asks at once, by its operands and its first answer.

        ``vmap`` puts their axes in front.
        """
        del operands
        return math.prod(answer.shape[: answer.ndim - len(self.sample_shapes[0])])

    @property
    def splits(self) -> bool:
        """Whether float64 answers come as two float32 parts, as JAX has no float64 now."""
        return self.box.outputs.is_double and np.dtype(np.float64) not in self.dtypes

    def results(self) -> list[jax.ShapeDtypeStruct]:
        """What the callback returns: the answers, and with ``splits`` what rounding cut off."""
        shapes = [
            jax.ShapeDtypeStruct(s, d) for s, d in zip(self.sample_shapes, self.dtypes, strict=True)
        ]
        return shapes * 2 if self.splits else shapes

    def asked(self, *leaves: jax.Array) -> list[jax.Array]:
        """The results for input leaves, by a callback; differentiating raises JAX's own error."""
        return call_host(self, self.results(), *leaves)

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The answers to samples under any number of leading axes."""
        answers = self.in_full(*arrays)
        drops = self.box.options.on_failure == "nan"
        rounded = [held(a, dtype, drops) for a, dtype in zip(answers, self.dtypes, strict=True)]
        if drops:
            self._leave_out(answers, rounded)
        if not self.splits:
            return rounded
        if not is_told(self.box, "small"):
            self._tell_small(answers)
        return rounded + list(map(cut_off, answers, rounded))

    def _leave_out(self, answers: Sequence[np.ndarray], rounded: Sequence[np.ndarray]) -> None:
        """Counts the samples that have become NaN in the type in which JAX holds them."""
        lost = [
            (np.isnan(new) & ~np.isnan(old)).reshape(-1, *shape[self.count is not None :])
            for new, old, shape in zip(rounded, answers, self.sample_shapes, strict=True)
            if new.dtype != old.dtype
        ]
        if lost and (many := _num_samples_with_any(lost)):
            self.box.leave_out(many)

    def _tell_small(self, answers: Sequence[np.ndarray]) -> None:
        """Warns once of a box that float32 holds few digits of its answers."""
        for answer in answers:
            if answer.dtype != np.float64:
                continue
            largest = np.max(np.abs(answer), initial=0, where=np.isfinite(answer))
            if 0 < largest < _SMALLEST:
                tell_once(
                    self.box,
                    "small",
                    f"the float64 answers of a black box are so small, {largest:.3g} the largest, "
                    "that JAX without float64 holds few digits of them, and fewer of their slopes: "
                    f"scale the answers, to above {_SMALLEST:.1g}, or set jax_enable_x64",
                )

    def in_full(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The answers in the host's own dtypes."""
        leading, samples = flat_samples(arrays, self.ndims, self.count)
        count = int(np.prod(leading, dtype=np.int64)) * self.num_samples
        found = self.box.answer(self.treedef, samples, count)
        return [
            value.reshape((*leading, *shape))
            for value, shape in zip(found, self.sample_shapes, strict=True)
        ]

    def outputs(self, results: list[jax.Array]) -> PyTree:
        """The answers as a tree."""
        outputs = self.box.outputs
        return outputs.treedef.unflatten(results[: len(outputs.shapes)])


@dataclass(frozen=True)
class ByCall:
    """What a callback calls that asks by another call.

    Attributes:
      call: the other.
    """

    call: Any

    @property
    def box(self) -> object:
        """Who answers."""
        return self.call.box

    @property
    def num_samples(self) -> int:
        """That one evaluation sends."""
        return self.call.num_samples

    def num_copies(self, operands: Sequence[ShapedArray], answer: ShapedArray) -> int:
        """As of the call."""
        return self.call.num_copies(operands, answer)


def _num_samples_with_any(marked: Sequence[np.ndarray]) -> int:
    rows = [marks.reshape(len(marks), -1).any(axis=1) for marks in marked]
    return int(np.any(rows, axis=0).sum())


def as_input(leaf: Any) -> jax.Array:
    """An input as JAX holds it.

    Raises:
      ValueError: a whole number of NumPy's beyond what JAX holds in its place.
    """
    array = jnp.asarray(leaf)
    if not isinstance(leaf, np.ndarray | np.generic):
        return array
    given: Any = np.asarray(leaf)
    if given.dtype.kind in "iu" and given.dtype != array.dtype:
        limits = np.iinfo(array.dtype)
        if np.any(beyond := np.asarray((given < limits.min) | (given > limits.max))):
            raise ValueError(
                f"an input, {given[beyond].reshape(-1)[0]}, is beyond "
                f"{array.dtype}, which JAX holds in place of {given.dtype}: give it in two "
                "numbers, or set jax_enable_x64"
            )
    return array


def held(answer: np.ndarray, dtype: np.dtype, drops: bool = False) -> np.ndarray:
    """An answer in the type in which JAX holds it.

    Args:
      answer: of the host.
      dtype: of JAX.
      drops: whether a float64 beyond that type is NaN, as samples may go without an answer.

    Raises:
      BlackBoxError: a number beyond that type.
    """
    with np.errstate(over="ignore"):
        rounded = answer.astype(dtype)
    if answer.dtype == np.float64 and np.any(lost := np.isinf(rounded) & np.isfinite(answer)):
        if drops:
            return np.where(lost, np.nan, rounded)
        raise BlackBoxError(
            f"an answer of the black box, {answer[lost].reshape(-1)[0]:.3g}, is beyond {dtype}, "
            f"which JAX holds in place of {answer.dtype}: scale the answer, or set jax_enable_x64"
        )
    if jnp.issubdtype(dtype, jnp.integer) and np.any(rounded != answer):
        beyond = answer[rounded != answer].reshape(-1)[0]
        raise BlackBoxError(
            f"an answer of the black box, {beyond}, is beyond {dtype}, which JAX holds in place of "
            f"{answer.dtype}: declare a floating-point dtype, or set jax_enable_x64"
        )
    return rounded


def cut_off(answer: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """What rounding cut off, as another number: the sum of both keeps 48 bits of a float64."""
    if not jnp.issubdtype(rounded.dtype, jnp.floating):
        return np.zeros_like(rounded)
    return np.asarray(answer - rounded.astype(answer.dtype)).astype(rounded.dtype)


def flat_samples(
    arrays: tuple[np.ndarray, ...], ndims: tuple[int, ...], count: int | None
) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """The axes that ``vmap`` added, and copies of the inputs with one axis of samples.

    Copies, as a call that is given up goes on after the memory of its callback is gone.
    """
    host = [np.asarray(array) for array in arrays]
    cut = [array.ndim - ndim for array, ndim in zip(host, ndims, strict=True)]
    leading = np.broadcast_shapes(*[a.shape[:c] for a, c in zip(host, cut, strict=True)])
    skipped = 0 if count is None else 1
    samples = []
    for array, c in zip(host, cut, strict=True):
        tail = array.shape[c + skipped :]
        whole = np.broadcast_to(array, leading + array.shape[c:])
        num = int(np.prod(whole.shape[: whole.ndim - len(tail)], dtype=np.int64))
        samples.append(np.array(whole).reshape((num, *tail)))
    return leading, samples


def from_two_parts(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The answers of ``held`` numbers and, in the same order, what was ``cut_off``."""
    half = len(parts) // 2
    return [
        np.asarray(high, np.float64) + np.asarray(low, np.float64)
        for high, low in zip(parts[:half], parts[half:], strict=True)
    ]


def widened(leaf: np.ndarray) -> np.ndarray:
    """Numbers in ``widened_dtype``."""
    return leaf.astype(widened_dtype(leaf.dtype), copy=False)


def widened_dtype(dtype: np.dtype) -> np.dtype:
    """Float64 for floating-point numbers, complex128 for complex ones, others as they are."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def query(call: HostCall, leaves: list[jax.Array]) -> list[jax.Array]:
    """The results of ``call`` for its input leaves; differentiating raises one line."""
    asked = without_derivative(
        call.asked,
        "a black box has no derivative (callbacks do not support JVP): wrap it in "
        "dz.differentiable, or take dz.value_and_grad, which only queries it"
        f"{see('no-derivative')}",
    )
    return asked(*leaves)


def without_derivative(fun: Callable[..., PyTree], words: str) -> Callable[..., PyTree]:
    """A function that raises a ValueError of these words where it is differentiated."""
    marked = jax.custom_jvp(fun)

    @marked.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        del primals, tangents
        raise ValueError(words)

    return marked


def answered(operands: Sequence[jax.Array], ask: Callable[[], PyTree]) -> PyTree:
    """What is asked for of boxes; outside ``jit`` it is waited for, and their errors are plain.

    Args:
      operands: that it depends on; traced ones mean inside.
      ask: asks for it.
    """
    if any(isinstance(operand, Tracer) for operand in operands):
        return ask()
    with box_errors():
        return jax.block_until_ready(ask())
