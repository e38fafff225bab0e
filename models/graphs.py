"""Build the ONNX graphs of P-Net, R-Net and O-Net from plain weight arrays (layout: `facemill.models.weights`).

Each network takes `pixels` (N, height, width, 3) float32 RGB grey values 0..255 and returns, in this order, `scores`
(N, ...), the probability of a face, `offsets` (N, ..., 4), the box regression x1, y1, x2, y2, and O-Net also
`landmarks` (N, 10), five x then five y, as fractions of the patch. P-Net takes pictures of any size, at least 12 px a
side, and its outputs keep the rows and columns of its map of cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemill.models.weights import NetworkName, Weights

# onnxruntime 1.18, the oldest supported, reads up to opset 21 and IR 10.
OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class _Architecture:
    """Zhang et al. 2016, figure 2: the max-pooling side (stride 2) after each convolution, 0 for none."""

    pools: tuple[int, ...]
    patch_px: int | None  # side of the input; None where any size will do
    heads: tuple[str, ...]


_ARCHITECTURES: dict[NetworkName, _Architecture] = {
    "pnet": _Architecture((2, 0, 0), None, ("score", "box")),
    "rnet": _Architecture((3, 3, 0), 24, ("score", "box")),
    "onet": _Architecture((3, 3, 2, 0), 48, ("score", "box", "landmarks")),
}
_OUTPUT_NAMES = {"score": "scores", "box": "offsets", "landmarks": "landmarks"}


def build_graph(network: NetworkName, weights: Weights) -> bytes:
    """Serialized ONNX model of one network, equal to the plain computation within 1e-5."""
    import onnx
    from onnx import TensorProto, helper

    architecture = _ARCHITECTURES[network]
    builder = _Builder()
    features = _append_trunk(builder, weights, architecture)
    for head in architecture.heads:
        _append_head(builder, weights, head, features, is_map=architecture.patch_px is None)
    side = architecture.patch_px
    shape = ["num_patches", side or "height", side or "width", 3]
    graph = helper.make_graph(
        builder.nodes,
        network,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                _OUTPUT_NAMES[head], TensorProto.FLOAT, _output_shape(head, is_map=side is None)
            )
            for head in architecture.heads
        ],
        builder.constants,
    )
    model = helper.make_model(
        graph, producer_name="facemill", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


class _Builder:
    """Collects nodes and constants and gives them names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        array = np.ascontiguousarray(values)
        self.constants.append(
            numpy_helper.from_array(array.astype(np.float32) if array.dtype.kind == "f" else array, name)
        )
        return name

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def convolution(self, features: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        return self.node("Conv", features, self.constant(weight), self.constant(bias), kernel_shape=weight.shape[2:])


def _append_trunk(builder: _Builder, weights: Weights, architecture: _Architecture) -> str:
    """From pixels to the features that the outputs share."""
    centred = builder.node("Sub", "pixels", builder.constant(np.float32(127.5)))
    features = builder.node("Transpose", centred, perm=[0, 3, 1, 2])
    for index, pool_px in enumerate(architecture.pools):
        name = f"conv{index + 1}"
        # Pixels are scaled by 1 / 128, a power of two: it can go into the kernel without changing a bit.
        weight = weights[f"{name}.weight"] / np.float32(128) if index == 0 else weights[f"{name}.weight"]
        features = builder.convolution(features, weight, weights[f"{name}.bias"])
        features = _append_prelu(builder, features, weights[f"{name}.slope"])
        if pool_px:
            features = builder.node("MaxPool", features, kernel_shape=[pool_px, pool_px], strides=[2, 2], ceil_mode=1)
    if "dense.weight" in weights:
        features = builder.convolution(features, weights["dense.weight"], weights["dense.bias"])
        features = _append_prelu(builder, features, weights["dense.slope"])
    return features


def _append_prelu(builder: _Builder, features: str, slope: NDArray[np.float32]) -> str:
    """PReLU as `slope * x + (1 - slope) * relu(x)`, exact for any slope.

    ONNX Runtime's own PRelu is scalar code and needs a change of layout before and after: it doubles the time of P-Net.
    """
    slope = slope.reshape(-1, 1, 1)
    linear = builder.node("Mul", features, builder.constant(slope))
    positive = builder.node("Mul", builder.node("Relu", features), builder.constant(1 - slope))
    return builder.node("Add", linear, positive)


def _output_shape(head: str, *, is_map: bool) -> list[str | int]:
    channels: dict[str, list[str | int]] = {"score": [], "box": [4], "landmarks": [10]}
    return ["num_patches", *(["rows", "columns"] if is_map else []), *channels[head]]


def _append_head(builder: _Builder, weights: Weights, head: str, features: str, *, is_map: bool) -> None:
    weight, bias = weights[f"{head}.weight"], weights[f"{head}.bias"]
    if head == "score":  # softmax of two values is the logistic function of their difference
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    values = builder.convolution(features, weight, bias)
    if head == "score":
        values = builder.node("Sigmoid", values)
    # (N, channels, height, width) -> (N, height, width, channels); patches have a map of 1 x 1
    values = builder.node("Transpose", values, perm=[0, 2, 3, 1])
    axes = ([] if is_map else [1, 2]) + ([3] if head == "score" else [])
    if axes:
        builder.node("Squeeze", values, builder.constant(np.array(axes)), output=_OUTPUT_NAMES[head])
    else:
        builder.node("Identity", values, output=_OUTPUT_NAMES[head])
