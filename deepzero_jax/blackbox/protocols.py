"""The words in which inference servers are asked over HTTP, and those of their answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepzero_jax.blackbox.answers import from_json
from deepzero_jax.blackbox.errors import BlackBoxError

Protocol = Literal["plain", "kserve_v2", "instances"]
Named = Mapping[str, np.ndarray]

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_NUMPY = {name: dtype for dtype, name in _DATATYPES.items()}


@dataclass(frozen=True)
class Wording:
    """How one protocol puts samples and answers.

    Attributes:
      request: ``({name: [n, …]}) -> JSON``; the one input of a plain call is named "".
      answer: ``(JSON, output name or None) -> [n, …]``.
    """

    request: Callable[[Named], dict[str, Any]]
    answer: Callable[[Any, str | None], np.ndarray]


def _lists(inputs: Named) -> Any:
    listed = {name: array.tolist() for name, array in inputs.items()}
    return listed[""] if list(listed) == [""] else listed


def _of(content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f'it must answer {{"{name}": …}}, got {str(content)[:200]}')
    return content[name]


def _outputs(content: Any, output: str | None) -> np.ndarray:
    found = _of(content, "outputs")
    is_named = output is not None or isinstance(found, dict)
    return from_json(_chosen(found, output) if is_named else found)


def _chosen(found: Any, output: str | None) -> Any:
    """One of several outputs."""
    if not isinstance(found, dict):
        raise BlackBoxError(f"it has one output without a name; leave out output={output!r}")
    if output is None:
        raise BlackBoxError(f"its outputs have names: give output=, one of {sorted(found)}")
    if output not in found:
        raise BlackBoxError(f"it has no output {output!r}; its outputs are {sorted(found)}")
    return found[output]


def _rows(inputs: Named) -> list[Any]:
    if list(inputs) == [""]:
        return inputs[""].tolist()
    count = len(next(iter(inputs.values())))
    return [{name: array[i].tolist() for name, array in inputs.items()} for i in range(count)]


def _rows_of(content: Any, name: str) -> list[Any]:
    found = _of(content, name)
    if not isinstance(found, list):
        raise BlackBoxError(f'it answers "{name}" otherwise than the protocol: {str(found)[:200]}')
    return found


def _predictions(content: Any, output: str | None) -> np.ndarray:
    found = _rows_of(content, "predictions")
    is_named = output is not None or any(isinstance(row, dict) for row in found)
    if is_named:  # a row may be null
        found = [row if row is None else _chosen(row, output) for row in found]
    return from_json(found)


def _datatype(dtype: np.dtype) -> str:
    if dtype.name not in _DATATYPES:
        raise BlackBoxError(
            f"the protocol kserve_v2 has no {dtype}: cast the input, x.astype('float32')"
        )
    return _DATATYPES[dtype.name]


def _tensors(inputs: Named) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name or "input",
                "shape": list(array.shape),
                "datatype": _datatype(array.dtype),
                "data": array.ravel().tolist(),
            }
            for name, array in inputs.items()
        ]
    }


def _tensor(content: Any, output: str | None) -> np.ndarray:
    tensors = {tensor["name"]: tensor for tensor in _rows_of(content, "outputs")}
    name = next(iter(tensors)) if output is None and len(tensors) == 1 else output
    found = _chosen(tensors, name)
    data = _declared(from_json(found["data"]), found["datatype"], found["name"])
    return data.reshape(found["shape"])


def _declared(data: np.ndarray, datatype: str, name: str) -> np.ndarray:
    """Numbers in the type that they are declared in, which must hold them."""
    if datatype not in _NUMPY:
        raise BlackBoxError(f"it answers in {datatype}, which is not read here")
    if data.dtype.kind not in "fiub":
        return data
    dtype, given = np.dtype(_NUMPY[datatype]), data[np.isfinite(data)]
    with np.errstate(all="ignore"):
        taken = given.astype(dtype)
    beyond = given[~np.isfinite(taken) if dtype.kind == "f" else taken != given]
    if beyond.size:
        raise BlackBoxError(
            f"its output {name!r} is declared {datatype}, which does not hold {beyond[0]}"
        )
    is_whole = len(given) == data.size or dtype.kind == "f"
    return data.astype(dtype) if is_whole else data  # whole numbers have no NaN


PROTOCOLS: dict[str, Wording] = {
    "plain": Wording(
        lambda inputs: {"inputs": _lists(inputs)},
        _outputs,
    ),
    "instances": Wording(lambda inputs: {"instances": _rows(inputs)}, _predictions),
    "kserve_v2": Wording(_tensors, _tensor),
}
