"""A trained classifier as an ONNX file: a black box that nothing can look into."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_jax.files import written_whole
from deepzero_jax.models import CNN, ResNet


class _Graph:
    """Nodes and constants of an ONNX graph, built front to back; images are [b, c, h, w]."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy_helper = helper, numpy_helper
        self._variables = variables
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node; returns the name of its output."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant; returns its name."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(np.asarray(values, dtype))
        self.constants.append(self._numpy_helper.from_array(array, name))
        return name

    def conv(self, hidden: str, layer: str, stride: int = 1) -> str:
        """A 3×3 convolution padded by one."""
        own = self._variables["params"][layer]
        inputs = [hidden, self.constant(np.transpose(own["kernel"], (3, 2, 0, 1)))]
        if "bias" in own:
            inputs.append(self.constant(own["bias"]))
        return self.add("Conv", *inputs, pads=[1, 1, 1, 1], strides=[stride, stride])

    def norm(self, hidden: str, layer: str) -> str:
        """Batch normalisation by the running statistics."""
        own, running = self._variables["params"][layer], self._variables["batch_stats"][layer]
        values = (own["scale"], own["bias"], running["mean"], running["var"])
        inputs = [self.constant(value) for value in values]
        return self.add("BatchNormalization", hidden, *inputs, epsilon=1e-5)

    def classifier(self, hidden: str) -> str:
        """Global average pooling and the dense layer."""
        own = self._variables["params"]["classifier"]
        pooled = self.add("Flatten", self.add("GlobalAveragePool", hidden))
        return self.add("Gemm", pooled, self.constant(own["kernel"]), self.constant(own["bias"]))


def _cnn(graph: _Graph, model: CNN, hidden: str) -> str:
    for index in range(model.depth):
        hidden = graph.norm(graph.conv(hidden, f"block{index + 1}_conv"), f"block{index + 1}_norm")
        hidden = graph.add("Relu", hidden)
        hidden = graph.add("MaxPool", hidden, kernel_shape=[2, 2], strides=[2, 2])
    return graph.classifier(hidden)


def _resnet(graph: _Graph, model: ResNet, hidden: str) -> str:
    hidden = graph.add("Relu", graph.norm(graph.conv(hidden, "stem_conv"), "stem_norm"))
    for stage in range(3):
        for block in range((model.depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            start = hidden
            hidden = graph.norm(graph.conv(start, f"{name}_conv1", stride), f"{name}_norm1")
            hidden = graph.conv(graph.add("Relu", hidden), f"{name}_conv2")
            hidden = graph.norm(hidden, f"{name}_norm2")
            if stride == 2:
                start = _halved(graph, start, model.width * 2 ** (stage - 1))
            hidden = graph.add("Relu", graph.add("Add", hidden, start))
    return graph.classifier(hidden)


def _halved(graph: _Graph, hidden: str, channels: int) -> str:
    """The option-A shortcut: every second pixel, and as many zero channels again."""
    whole = np.iinfo(np.int64).max
    bounds = [graph.constant(v, np.int64) for v in ([0, 0], [whole, whole], [2, 3], [2, 2])]
    hidden = graph.add("Slice", hidden, *bounds)
    before = channels // 2
    pads = graph.constant([0, before, 0, 0, 0, channels - before, 0, 0], np.int64)
    return graph.add("Pad", hidden, pads)


_BUILDERS = {CNN: _cnn, ResNet: _resnet}


def export_onnx(
    model: Any,
    variables: Mapping[str, Any],
    shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    path: Path,
) -> None:
    """Writes a trained classifier of images in [0, 1] as an ONNX file.

    Args:
      model: a CNN of the ladder or a ResNet.
      variables: its parameters and running statistics.
      shape: of an image, ``(h, w, c)``; the file's input is float32 [b, h, w, c].
      mean: [c], subtracted inside the file.
      std: [c], divided by inside the file.
      path: of the file.

    Raises:
      ImportError: onnx is not installed.
      ValueError: another kind of network.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise ImportError('export_onnx needs onnx: pip install "deepzero-jax[onnx]"') from error
    if type(model) not in _BUILDERS:
        known = ", ".join(kind.__name__ for kind in _BUILDERS)
        raise ValueError(f"cannot export a {type(model).__name__}; known: {known}")
    graph = _Graph(variables)
    hidden = graph.add("Sub", "images", graph.constant(mean))
    hidden = graph.add("Div", hidden, graph.constant(std))
    hidden = graph.add("Transpose", hidden, perm=[0, 3, 1, 2])
    logits = _BUILDERS[type(model)](graph, model, hidden)
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    proto = helper.make_graph(
        graph.nodes,
        type(model).__name__,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", model.num_classes])],
        graph.constants,
    )
    # Opset and file version that every runtime of the last years reads.
    built = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        onnx.save(built, str(temporary))
