"""A model file as a black box, by ONNX Runtime."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox.errors import BlackBoxError
from deepzero_jax.registry import nearest
from deepzero_jax.types import PyTree

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxModel:
    """A host function that runs an ONNX file; see ``onnx_model``.

    It can be sent to other processes, which open the file themselves.
    """

    def __init__(self, path: str | Path, output: str | None, num_threads: int) -> None:
        self._made_of = (path, output, num_threads)
        self._session = _session(path, num_threads)
        self._inputs = self._session.get_inputs()
        for declared in self._inputs:
            if declared.type not in _DTYPES:
                raise ValueError(f"{path}: input {declared.name!r} is a {declared.type}")
        outputs = {declared.name: declared.shape for declared in self._session.get_outputs()}
        self._output = next(iter(outputs)) if output is None else output
        if self._output not in outputs:
            raise ValueError(
                f"{path} has no output {output!r}, {nearest(str(output), list(outputs))}"
            )
        first = {declared.shape[0] for declared in self._inputs if declared.shape}
        fixed = sorted(size for size in first if _is_fixed(size))
        if len(fixed) > 1:
            raise ValueError(f"{path}: inputs are fixed to batches of {fixed} samples at once")
        lead = outputs[self._output][:1]
        # As many answers whatever the batch: none is a sample's, but of one that is alone.
        alone = not fixed and bool(lead) and _is_fixed(lead[0]) and lead != [1]
        self._batch = fixed[0] if fixed else 1 if alone else None

    def __reduce__(self) -> tuple[PyTree, ...]:
        return OnnxModel, self._made_of

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """The types that its inputs are cast to, by name."""
        return {declared.name: np.dtype(_DTYPES[declared.type]) for declared in self._inputs}

    def check_dtypes(self, *inputs: PyTree) -> None:
        """Raises ValueError for inputs, or their types and shapes, that the model would round.

        What it rounds, a small step may be lost in, and the slope with it.
        """
        for declared, given in self._matched(inputs):
            takes = np.dtype(_DTYPES[declared.type])
            if jnp.issubdtype(given.dtype, jnp.floating) and not np.can_cast(given.dtype, takes):
                raise ValueError(
                    f"the model's input {declared.name!r} takes {takes} and would round the "
                    f"{given.dtype} that it is asked at: cast it, x.astype({takes.name!r}), and "
                    'leave out dtype="float64" of its box'
                )

    def __call__(self, *inputs: PyTree) -> np.ndarray:
        """The chosen output for samples [n, …], given in the model's order or as one dictionary."""
        matched = self._matched(inputs)
        feed = {d.name: _taken(d, array) for d, array in matched}
        unsaid = [d.name for d, _ in matched if not d.shape and feed[d.name].ndim]
        # A number a sample, for an input that has no axis of samples.
        numbers = [name for name in unsaid if feed[name].ndim == 1]
        # What has no shape in the file may be a number there, and be broadcast along any axis.
        if self._batch is None and not numbers and not (unsaid and len(matched) > 1):
            return self._run(feed)
        count = next(len(array) for array in feed.values() if array.ndim)
        batch = self._batch or 1
        size = 1 if numbers else batch
        answers = []
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            filled = np.append(rows, np.full(batch - len(rows), rows[-1]))
            taken = {name: array[filled] if array.ndim else array for name, array in feed.items()}
            taken |= {name: np.asarray(feed[name][start]) for name in numbers}
            answers.append((self._run(taken), len(rows)))
        return self._joined(answers, batch)

    def _joined(self, answers: list[tuple[np.ndarray, int]], batch: int) -> np.ndarray:
        """The answers [n, …] of runs of a batch, of each as many as it has samples of its own."""
        parts = [part for part, _ in answers]
        if batch == 1 and any(part.shape[:1] != (1,) for part in parts):
            parts = [part[None] for part in parts]  # they are without the axis of the one sample
        elif wrong := [part for part in parts if part.shape[:1] != (batch,)]:
            raise BlackBoxError(
                f"the model's output {self._output!r} has shape {list(wrong[0].shape)} for a batch "
                f"of {batch}, and so no answer for each sample: give output=, or export it "
                "with a batch of 1"
            )
        if len(shapes := {part.shape for part in parts}) > 1:
            one, other = sorted(shapes)[:2]
            raise BlackBoxError(
                f"the model's output {self._output!r} has another shape for other samples, "
                f"{list(one[1:])} and {list(other[1:])}"
            )
        return np.concatenate([part[:k] for part, (_, k) in zip(parts, answers, strict=True)])

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(self._session.run([self._output], feed)[0])

    def _matched(self, inputs: tuple[PyTree, ...]) -> list[tuple[Any, PyTree]]:
        """Each declared input with what is given for it."""
        names = [declared.name for declared in self._inputs]
        if len(inputs) == 1 and isinstance(inputs[0], dict):
            given = inputs[0]
        elif len(inputs) == len(names):
            given = dict(zip(names, inputs, strict=True))
        else:
            raise BlackBoxError(f"the model takes {names}, got {len(inputs)} inputs")
        if set(given) != set(names):
            raise BlackBoxError(f"the model takes {names}, got {sorted(given)}")
        return [(declared, given[declared.name]) for declared in self._inputs]


def _is_fixed(size: object) -> bool:
    return isinstance(size, int) and size > 0


def _taken(declared: Any, array: PyTree) -> np.ndarray:
    """Samples as an input of the model; a length that it leaves open, or does not say, is any."""
    shape, sizes = np.shape(array), declared.shape
    fits = not sizes or (
        len(shape) == len(sizes)
        and all(
            size in (own, None) or isinstance(size, str)
            for size, own in zip(sizes[1:], shape[1:], strict=True)
        )
    )
    if not fits:
        sample = ["any" if isinstance(size, str | None) else str(size) for size in sizes[1:]]
        raise BlackBoxError(
            f"the model's input {declared.name!r} takes [{', '.join(['n', *sample])}], "
            f"got {list(shape)}"
        )
    given, dtype = np.asarray(array), np.dtype(_DTYPES[declared.type])
    with np.errstate(all="ignore"):
        taken = np.asarray(given, dtype, order="C")
    if dtype.kind not in "f" and np.any(taken != given):
        beyond = given[taken != given].reshape(-1)[0]
        raise BlackBoxError(
            f"the model's input {declared.name!r} takes {dtype}, which does not hold {beyond}"
        )
    return taken


def onnx_model(path: str | Path, output: str | None = None, num_threads: int = 1) -> OnnxModel:
    """A host function for ``black_box`` that runs an ONNX file on the CPU.

    Args:
      path: of a model whose first axes are the batch. One that is fixed to a batch is run so
        many samples at a time, the last of them repeated where they do not fill it; the answers
        of a batch of 1 may lack the axis of samples. Samples of an input that is a number (a
        temperature) are run one by one. Inputs are cast to the types that it declares, but a
        ``black_box`` of it refuses such as would be rounded (``ValueError``); others than it
        takes raise ``BlackBoxError``, as does an output without an answer for each sample.
      output: the name of the output that answers; None: the first.
      num_threads: of a call.

    Returns:
      ``(*inputs) -> answers``: the model's inputs in its order, or one dictionary by name.

    Raises:
      ImportError: onnxruntime is not installed (the ``onnx`` extra).
      ValueError: no such file, one that is not a model, or an output that it does not have.
    """
    return OnnxModel(path, output, num_threads)


def _session(path: str | Path, num_threads: int) -> PyTree:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            'onnx_model needs onnxruntime: pip install "deepzero-jax[onnx]"'
        ) from error
    if not Path(path).is_file():
        raise ValueError(f"no ONNX file {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ValueError(f"{path} is not an ONNX model that can be run ({error})") from error
