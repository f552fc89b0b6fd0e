"""A model file as a black box, by ONNX Runtime."""

from pathlib import Path

import numpy as np

from deepzero_jax.blackbox.box import HostFunction


def onnx_model(path: str | Path, num_threads: int = 1) -> HostFunction:
    """A host function for ``black_box`` that runs an ONNX file on the CPU.

    Args:
      path: of a model with one input and at least one output, whose first axes are the batch.
      num_threads: of a call.

    Raises:
      ImportError: onnxruntime is not installed (the ``onnx`` extra).
      ValueError: no such file, or one that is not a model with one input.
    """
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
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ValueError(f"{path} is not an ONNX model that can be run ({error})") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ValueError(f"{path} must have one input, it has {[i.name for i in inputs]}")

    def run(samples: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {inputs[0].name: samples})[0])

    return run
