"""Build the ONNX graphs of P-Net, R-Net and O-Net from plain weight arrays (layout: `facemill.models.weights`).

Each network takes `pixels` (N, height, width, 3) uint8 RGB and returns `heads`, float32, whose channels are the logit
of a face, the box regression x1, y1, x2, y2 and, of O-Net, the landmarks, five x then five y, as fractions of the
patch: P-Net (N, 5, rows, columns), R-Net (N, 5), O-Net (N, 15). P-Net takes pictures of any size from 12 px a side.

There are two forms of each graph. The plain one says what the paper says. The fast one gives the same numbers to 1e-5
in ONNX Runtime, with the operators that it runs in blocks of 16 channels: convolution with ReLU and sum fused in, and
max pooling. Its own PRelu is scalar, needs a change of layout before and after, and takes two thirds of P-Net's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemill.models.weights import NetworkName, Weights

GraphForm = Literal["plain", "fast"]

# onnxruntime 1.18, the oldest supported, reads up to opset 21 and IR 10.
OPSET = 17
IR_VERSION = 8

# Channels that ONNX Runtime computes together: 16 with AVX-512, 8 with AVX2.
_BLOCK = 16


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
_NUM_CHANNELS = {"score": 1, "box": 4, "landmarks": 10}


class _Layer(NamedTuple):
    name: str
    weight: NDArray[np.float32]  # (out, in, height, width)
    bias: NDArray[np.float32]  # (out,)
    slope: NDArray[np.float32]  # (out,), of PReLU
    pool_px: int
    strides: tuple[int, int]


class _Features(NamedTuple):
    """A tensor in the graph and how it deviates from the plain one: signs, and channels of zeros at the end."""

    tensor: str
    signs: NDArray[np.float32]  # (channels,)


def build_graph(network: NetworkName, weights: Weights, form: GraphForm = "fast") -> bytes:
    """Serialized ONNX model of one network; its layers' outputs are named `conv1`, ..., `dense`."""
    import onnx
    from onnx import TensorProto, helper

    architecture = _ARCHITECTURES[network]
    builder = _Builder()
    append_layer = _append_plain_layer if form == "plain" else _append_fast_layer
    features = _Features(_append_input(builder, architecture.patch_px), np.ones(1, np.float32))
    for layer in _layers(weights, architecture):
        features = append_layer(builder, layer, features)
    _append_heads(builder, weights, architecture, features)
    side = architecture.patch_px
    num_outputs = sum(_NUM_CHANNELS[head] for head in architecture.heads)
    graph = helper.make_graph(
        builder.nodes,
        network,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", side or "height", side or "width", 3])],
        [
            helper.make_tensor_value_info(
                "heads", TensorProto.FLOAT, ["batch", num_outputs, *(["rows", "columns"] if side is None else [])]
            )
        ],
        builder.constants,
    )
    model = helper.make_model(
        graph, producer_name="facemill", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def _layers(weights: Weights, architecture: _Architecture) -> list[_Layer]:
    names = [f"conv{index + 1}" for index in range(len(architecture.pools))]
    pools = dict(zip(names, architecture.pools, strict=True))
    if "dense.weight" in weights:
        names.append("dense")
    return [_layer(weights, name, pools.get(name, 0)) for name in names]


def _layer(weights: Weights, name: str, pool_px: int) -> _Layer:
    weight, bias, slope = (weights[f"{name}.{part}"] for part in ("weight", "bias", "slope"))
    if name != "conv1":
        return _Layer(name, weight, bias, slope, pool_px, (1, 1))
    # It takes grey values 0..255 for (x - 127.5) / 128, and rows in which a pixel is three values.
    scaled = weight.astype(np.float64) / 128
    shifted = bias - 127.5 * scaled.sum(axis=(1, 2, 3))
    rows = scaled.transpose(0, 2, 3, 1).reshape(len(weight), 1, weight.shape[2], -1)
    return _Layer(name, rows.astype(np.float32), shifted.astype(np.float32), slope, pool_px, (1, weight.shape[1]))


class _Builder:
    """Collects nodes and constants and gives them names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def convolution(
        self,
        features: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        *,
        output: str | None = None,
        group: int = 1,
        strides: tuple[int, int] = (1, 1),
    ) -> str:
        constants = [self.constant(values) for values in (weight, bias) if values is not None]
        return self.node(
            "Conv", features, *constants, output=output, kernel_shape=weight.shape[2:], group=group, strides=strides
        )

    def max_pool(self, features: str, side_px: int, *, output: str | None = None) -> str:
        return self.node(
            "MaxPool", features, output=output, kernel_shape=[side_px, side_px], strides=[2, 2], ceil_mode=1
        )


def _append_input(builder: _Builder, patch_px: int | None) -> str:
    """Each row of pixels as a row of values R, G, B, R, ..., so that none has to move: (N, 1, height, 3 width)."""
    from onnx import TensorProto

    rows = builder.node("Reshape", "pixels", builder.constant([0, 0, 3 * patch_px if patch_px else -1], np.int64))
    plane = builder.node("Unsqueeze", rows, builder.constant([1], np.int64))
    return builder.node("Cast", plane, to=TensorProto.FLOAT)


def _append_plain_layer(builder: _Builder, layer: _Layer, features: _Features) -> _Features:
    """Convolution, PReLU, max pooling."""
    linear = builder.convolution(features.tensor, layer.weight, layer.bias, strides=layer.strides)
    output = None if layer.pool_px else layer.name
    active = builder.node("PRelu", linear, builder.constant(layer.slope.reshape(-1, 1, 1)), output=output)
    if layer.pool_px:
        active = builder.max_pool(active, layer.pool_px, output=layer.name)
    return _Features(active, np.ones(len(layer.slope), np.float32))


def _append_fast_layer(builder: _Builder, layer: _Layer, features: _Features) -> _Features:
    """The same by convolutions, ReLU, sums and max pooling."""
    weight = _pad(layer.weight, 1, len(features.signs)) * features.signs[:, np.newaxis, np.newaxis]
    layer = layer._replace(weight=weight)
    if layer.pool_px and _is_pooled_first(layer.slope):
        return _append_pool_then_prelu(builder, layer, features.tensor)
    return _append_prelu_then_pool(builder, layer, features.tensor)


def _is_pooled_first(slope: NDArray[np.float32]) -> bool:
    """Whether pooling before PReLU is possible or pays: for slopes above 1, or where it costs no block of channels."""
    return bool((slope > 1).any()) or _blocks(len(slope) + (slope < 0).sum()) == _blocks(len(slope))


def _append_pool_then_prelu(builder: _Builder, layer: _Layer, features: str) -> _Features:
    """Pool first, which leaves PReLU a quarter of the values.

    With a slope a >= 0 PReLU grows with x, and may come after the pooling. With a < 0 it is max(x, a x), and the
    convolution gives both, p and q, to be pooled: their maximum is q + relu(p - q). Slopes above 1, whose PReLU is
    a x - relu((a - 1) x), come out with the sign turned, as only sums can be fused.
    """
    slope = layer.slope
    falling = np.flatnonzero(slope < 0)
    factors = slope[falling]
    width = _blocks(len(slope) + len(falling)) * _BLOCK
    weight = np.concatenate([layer.weight, layer.weight[falling] * factors[:, np.newaxis, np.newaxis, np.newaxis]])
    bias = np.concatenate([layer.bias, layer.bias[falling] * factors])
    linear = builder.convolution(features, _pad(weight, 0, width), _pad(bias, 0, width), strides=layer.strides)
    pooled = builder.max_pool(linear, layer.pool_px)

    # Less than one block is best left unblocked, for the next layer takes it so; in multiples of 4, as else, where
    # blocks are of 8 (AVX2), everything behind it would stay unblocked.
    num_channels = _blocks(len(slope), 4) * 4 if len(slope) < _BLOCK else _blocks(len(slope)) * _BLOCK
    kept, bent = np.zeros((2, num_channels, width, 1, 1), np.float32)
    rising = np.flatnonzero(slope >= 0)
    signs = _signs(slope)
    kept[rising, rising, 0, 0] = signs[rising] * slope[rising]
    bent[rising, rising, 0, 0] = np.abs(1 - slope[rising])
    partner = len(slope) + np.arange(len(falling))
    kept[falling, partner] = 1
    bent[falling, falling] = 1
    bent[falling, partner] = -1
    positive = builder.node("Relu", builder.convolution(pooled, bent))
    return _Features(
        builder.node("Add", builder.convolution(pooled, kept), positive, output=layer.name),
        _pad(signs, 0, num_channels),
    )


def _append_prelu_then_pool(builder: _Builder, layer: _Layer, features: str) -> _Features:
    """PReLU as a x + relu((1 - a) x), each product a convolution of single channels; of slopes above 1 the negative."""
    num_channels = _blocks(len(layer.slope)) * _BLOCK
    weight, bias = (_pad(values, 0, num_channels) for values in (layer.weight, layer.bias))
    slope, signs = _pad(layer.slope, 0, num_channels), _pad(_signs(layer.slope), 0, num_channels)
    linear = builder.convolution(features, weight, bias, strides=layer.strides)
    scaled, kept = (values.reshape(-1, 1, 1, 1) for values in (np.abs(1 - slope), signs * slope))
    positive = builder.node("Relu", builder.convolution(linear, scaled, group=num_channels))
    output = None if layer.pool_px else layer.name
    active = builder.node("Add", builder.convolution(linear, kept, group=num_channels), positive, output=output)
    if layer.pool_px:
        active = builder.max_pool(active, layer.pool_px, output=layer.name)
    return _Features(active, signs)


def _append_heads(builder: _Builder, weights: Weights, architecture: _Architecture, features: _Features) -> None:
    """All outputs by one convolution; the softmax of two values is the logistic function of their difference."""
    kernels = {head: (weights[f"{head}.weight"], weights[f"{head}.bias"]) for head in architecture.heads}
    kernels["score"] = (
        kernels["score"][0][1:] - kernels["score"][0][:1],
        kernels["score"][1][1:] - kernels["score"][1][:1],
    )
    weight, bias = (np.concatenate(values) for values in zip(*kernels.values(), strict=True))
    weight = _pad(weight, 1, len(features.signs)) * features.signs[:, np.newaxis, np.newaxis]
    if architecture.patch_px is None:
        builder.convolution(features.tensor, weight, bias, output="heads")
    else:  # the map of a patch is 1 x 1
        builder.node("Flatten", builder.convolution(features.tensor, weight, bias), output="heads")


def _signs(slope: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(slope > 1, np.float32(-1), np.float32(1))


def _blocks(num_channels: int, size: int = _BLOCK) -> int:
    return -(-num_channels // size)


def _pad(values: NDArray[np.float32], axis: int, length: int) -> NDArray[np.float32]:
    """Zeros at the end of an axis."""
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, length - values.shape[axis])
    return np.pad(values, widths)
