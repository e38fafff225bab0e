"""ONNX Runtime sessions of the cascade: one thread each, silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facemill.models.errors import ModelLoadError

if TYPE_CHECKING:
    import onnxruntime

_LOG_ERRORS_ONLY = 3


class Session:
    """A network that maps one float32 array to its outputs, on one CPU thread."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        # They share no base below Exception.
        cannot_load = (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented)
        try:
            self._session = onnxruntime.InferenceSession(
                model, sess_options=_one_thread_options(), providers=["CPUExecutionProvider"]
            )
        except cannot_load as error:
            raise ModelLoadError(f"ONNX Runtime {onnxruntime.__version__} cannot load the network: {error}") from error
        self._input_name = self._session.get_inputs()[0].name

    def __call__(self, array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input_name: array})
        return outputs


def _one_thread_options() -> onnxruntime.SessionOptions:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_ERRORS_ONLY
    # Every pyramid level has its own shape: remembered memory patterns would only pile up.
    options.enable_mem_pattern = False
    return options
