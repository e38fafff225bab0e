"""How many float32 multiply-adds one core does in a second, at best; run by `limits.py` with one BLAS thread.

    OPENBLAS_NUM_THREADS=1 python benchmarks/limits_peak.py

Prints, as JSON, the best rate of NumPy's matrix product and of ONNX Runtime's convolution (3 x 3) and matrix product,
all on what stays in the processor's cache, per second of CPU time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROUNDS = 12
SECONDS_PER_ROUND = 0.05
MATRIX_SIDES = (256, 512, 1024)
CONVOLUTIONS = ((64, 56), (64, 28), (128, 28), (256, 14))  # channels in and out, side of the map


def main() -> None:
    work: dict[str, list[tuple[float, Callable[[], object]]]] = {
        "matrix product, NumPy": [numpy_product(side) for side in MATRIX_SIDES],
        "matrix product, ONNX Runtime": [onnx_product(side) for side in MATRIX_SIDES],
        "convolution 3 x 3, ONNX Runtime": [onnx_convolution(*shape) for shape in CONVOLUTIONS],
    }
    best = dict.fromkeys(work, 0.0)
    for _ in range(ROUNDS):  # by turns, as the processor's pace changes
        for name, variants in work.items():
            best[name] = max(best[name], *(rate(*variant) for variant in variants))
    print(json.dumps(best))


def rate(multiply_adds: float, run: Callable[[], object]) -> float:
    run()
    count, started_at = 0, time.process_time()
    while (passed := time.process_time() - started_at) < SECONDS_PER_ROUND:
        run()
        count += 1
    return count * multiply_adds / passed


def numpy_product(side: int) -> tuple[float, Callable[[], object]]:
    left, right = noise(side, side), noise(side, side)
    target = np.empty((side, side), np.float32)
    return side**3, lambda: np.matmul(left, right, out=target)


def onnx_product(side: int) -> tuple[float, Callable[[], object]]:
    run = one_node("MatMul", noise(side, side), noise(side, side))
    return side**3, run


def onnx_convolution(channels: int, side: int) -> tuple[float, Callable[[], object]]:
    run = one_node("Conv", noise(1, channels, side, side), noise(channels, channels, 3, 3), pads=[1, 1, 1, 1])
    return side**2 * 9 * channels**2, run


def one_node(
    operator: str, features: np.ndarray, weight: np.ndarray, **attributes: list[int]
) -> Callable[[], list[np.ndarray]]:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["features", "weight"], ["result"], **attributes)],
        operator,
        [value("features", TensorProto.FLOAT, features.shape)],
        [value("result", TensorProto.FLOAT, [None] * features.ndim)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"features": features})


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


if __name__ == "__main__":
    main()
