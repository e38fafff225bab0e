"""Sessions of the networks: ONNX Runtime and OpenVINO behind one interface, one thread each, silent.

A session takes `pixels` and returns `heads`, as `facemill.models.graphs` describes them. What it says of a picture or
patch does not depend on what else is in the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from facemill.models.accelerators import (
    CPU_PROVIDER,
    CUDA_OPTIONS,
    CUDA_PROVIDER,
    Accelerator,
    import_onnxruntime,
    load_cuda_libraries,
)
from facemill.models.errors import ModelLoadError
from facemill.models.graphs import build_graph
from facemill.models.weights import NetworkName, Weights

if TYPE_CHECKING:
    import onnxruntime
    import openvino

Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_LOG_ERRORS_ONLY = 3
# Of so many patches what a network holds in between stays in the processor's cache, which saves a fifth of the time.
_CPU_BATCHES = {"rnet": 16, "onet": 4}

# OpenVINO compiles kernels for each shape it meets, 1.5 ms and 0.45 MB each, and a crawl has pictures of all sizes.
# Multiples of 12 px cost a tenth more pixels and leave 26 x 26 shapes of P-Net's tiles, some 300 MB.
_SHAPE_STEP_PX = 12
# A single patch would take another kernel, which gives other bits.
_MIN_PATCHES = 2
_ONE_THREAD_EXACT = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # workers would be pinned to the same core
    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, where the processor has it
}


def open_session(network: NetworkName, weights: Weights, accelerator: Accelerator = "cpu") -> Network:
    """A network ready to run on an accelerator that `resolve_accelerator` found.

    Raises:
        ModelLoadError: The accelerator's library cannot load the network.
    """
    if accelerator == "cpu":
        return Session(build_graph(network, weights), batch=_CPU_BATCHES.get(network))
    graph = build_graph(network, weights, form="plain")
    if accelerator == "cuda":
        return Session(graph, provider=CUDA_PROVIDER)
    return OpenVinoMapSession(graph) if network == "pnet" else OpenVinoPatchSession(graph)


class Session:
    """A network in ONNX Runtime, on one CPU thread or on a GPU."""

    def __init__(
        self,
        model: bytes,
        *,
        provider: Literal["CPUExecutionProvider", "CUDAExecutionProvider"] = CPU_PROVIDER,
        batch: int | None = None,
    ) -> None:
        onnxruntime = import_onnxruntime()
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        if provider == CUDA_PROVIDER:
            load_cuda_libraries()
        # They share no base below Exception.
        cannot_load = (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented)
        try:
            self._session = onnxruntime.InferenceSession(
                model,
                sess_options=_one_thread_options(),
                providers=[(provider, CUDA_OPTIONS if provider == CUDA_PROVIDER else {})],
            )
        except cannot_load as error:
            raise ModelLoadError(f"ONNX Runtime {onnxruntime.__version__} cannot load the network: {error}") from error
        if provider not in self._session.get_providers():  # it has fallen back without a word
            raise ModelLoadError(f"ONNX Runtime {onnxruntime.__version__} cannot use {provider}")
        self._input_name = self._session.get_inputs()[0].name
        self._batch = batch

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._batch is None or len(pixels) <= self._batch:
            (heads,) = self._session.run(None, {self._input_name: pixels})
            return np.asarray(heads, dtype=np.float32)
        starts = range(0, len(pixels), self._batch)
        return np.concatenate([self(pixels[start : start + self._batch]) for start in starts])


class _OpenVino:
    """A network in OpenVINO, on one CPU thread."""

    def __init__(self, model: bytes) -> None:
        import openvino

        core = _openvino_core()
        try:
            self._request = core.compile_model(core.read_model(model), "CPU", _ONE_THREAD_EXACT).create_infer_request()
        except RuntimeError as error:
            raise ModelLoadError(f"OpenVINO {openvino.__version__} cannot load the network: {error}") from error
        self._lock = threading.Lock()  # the request holds input and output of one run

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import openvino

        tensor = openvino.Tensor(np.ascontiguousarray(pixels), shared_memory=True)
        with self._lock:
            self._request.set_input_tensor(tensor)
            self._request.infer()
            heads: NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        return heads


class OpenVinoPatchSession(_OpenVino):
    """R-Net or O-Net: any number of patches of one size."""

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        num_patches = len(patches)
        if num_patches < _MIN_PATCHES:
            patches = np.concatenate([patches, np.zeros((_MIN_PATCHES - num_patches, *patches.shape[1:]), np.uint8)])
        return self._run(patches)[:num_patches]


class OpenVinoMapSession(_OpenVino):
    """P-Net: pictures of any size, with outputs (N, channels, rows, columns).

    Pictures get a margin at their top and left, to one of a limited number of shapes. It is even, so that cells and
    pooling keep their place, and the cells that see it are left out: those that remain are the same to the bit.
    """

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        num_pictures, height, width, num_channels = pictures.shape
        top, left = even_margin(height), even_margin(width)
        padded = np.zeros((num_pictures, height + top, width + left, num_channels), np.uint8)
        padded[:, top:, left:] = pictures
        return self._run(padded)[:, :, top // 2 :, left // 2 :]


def even_margin(side_px: int) -> int:
    """The smallest even number of pixels that lifts a side to a multiple of 12, or to one more."""
    return -(side_px - side_px % 2) % _SHAPE_STEP_PX


@lru_cache
def _openvino_core() -> openvino.Core:
    import openvino

    return openvino.Core()


def _one_thread_options() -> onnxruntime.SessionOptions:
    onnxruntime = import_onnxruntime()
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_ERRORS_ONLY
    # Every pyramid level has its own shape: remembered memory patterns would only pile up.
    options.enable_mem_pattern = False
    return options
