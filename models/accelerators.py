"""What runs the networks: ONNX Runtime on the processor, OpenVINO on the processor, ONNX Runtime with CUDA on a GPU.

Their numbers agree within small bounds (docs/accelerators.md), not to the bit. That is why `auto` is settled before a
run begins, and an output folder is never continued with another accelerator.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Final, Literal, get_args

from facemill.models.errors import ConfigError

Accelerator = Literal["cpu", "openvino", "cuda"]
AcceleratorChoice = Literal["cpu", "openvino", "cuda", "auto"]

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
# TF32 would round the inputs of products to 10 bits. The default search of cuDNN times every algorithm for each new
# shape, of which a picture has many, and its choice would differ from run to run.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
# onnxruntime-gpu puts its files into the same folder as onnxruntime: what was installed last is what runs.
_INSTALL_CUDA = 'pip install "facemill[cuda]" && pip install --force-reinstall --no-deps onnxruntime-gpu'
_INSTALL_OPENVINO = 'pip install "facemill[openvino]"'
_REPAIR_ONNXRUNTIME = "pip install --force-reinstall --no-deps onnxruntime"
_NVIDIA_SMI_SECONDS = 20
_LOG_WARNINGS, _LOG_NOTHING = 2, 4


@dataclass(frozen=True, slots=True)
class Engine:
    """What the results were computed with, for the record.

    Attributes:
        accelerator: Its name in the configuration.
        provider: What the package calls the part that computes.
        package: The installed distribution.
        version: Of the package.
        device: The processor's or the GPU's name; empty where unknown.
    """

    accelerator: Accelerator
    provider: str
    package: str
    version: str
    device: str


def resolve_accelerator(choice: AcceleratorChoice) -> Accelerator:
    """The accelerator meant, after a check that it is there; `auto` is CUDA where it works, and else the processor.

    Raises:
        ConfigError: It cannot be used here; names what to install.
    """
    if choice == "auto":
        choice = "cpu" if _why_no_cuda() else "cuda"
    checks = {"cpu": _why_no_onnxruntime, "openvino": _why_no_openvino, "cuda": _why_no_cuda}
    if choice not in checks:
        raise ConfigError(f"accelerator must be one of {', '.join(get_args(AcceleratorChoice))}, got {choice!r}")
    problem = checks[choice]()
    if problem:
        raise ConfigError(f"the accelerator {choice} cannot be used: {problem}")
    return choice


def describe_engine(accelerator: Accelerator) -> Engine:
    """The engine behind an accelerator that `resolve_accelerator` found."""
    if accelerator == "openvino":
        import openvino

        device = str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
        return Engine(accelerator, "CPU", "openvino", metadata.version("openvino"), device)
    onnxruntime = import_onnxruntime()
    version = onnxruntime.__version__
    if accelerator == "cuda":
        return Engine(accelerator, CUDA_PROVIDER, "onnxruntime-gpu", version, _gpu_name())
    package = "onnxruntime-gpu" if CUDA_PROVIDER in onnxruntime.get_available_providers() else "onnxruntime"
    return Engine(accelerator, CPU_PROVIDER, package, version, _processor_name())


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, kept from reporting its use to its makers over the network, as 1.31 does unless told otherwise."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # which it reads when it is imported
    return importlib.import_module("onnxruntime")


@lru_cache
def _why_no_openvino() -> str:
    """What stands in the way of OpenVINO, or an empty string."""
    try:
        import openvino

        openvino.Core()
    except Exception as error:  # a broken library raises whatever it likes
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
        what = "the package openvino is not installed" if is_absent else f"openvino does not load ({error})"
        return f"{what}; {_INSTALL_OPENVINO}"
    return ""


@lru_cache
def _why_no_onnxruntime() -> str:
    """What stands in the way of ONNX Runtime, or an empty string."""
    try:
        import_onnxruntime()
        from onnxruntime import InferenceSession  # noqa: F401
    except Exception as error:  # a broken library raises whatever it likes
        return f"onnxruntime does not load ({error}); {_REPAIR_ONNXRUNTIME}"
    return ""


@lru_cache
def _why_no_cuda() -> str:
    """What stands in the way of CUDA, or an empty string."""
    problem = _why_no_onnxruntime()
    if problem:
        return problem
    onnxruntime = import_onnxruntime()
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime {onnxruntime.__version__} is built without CUDA; {_INSTALL_CUDA}"
    load_cuda_libraries()
    onnxruntime.set_default_logger_severity(_LOG_NOTHING)  # it would tell of missing libraries at length
    try:
        session = onnxruntime.InferenceSession(_smallest_model(), providers=[(CUDA_PROVIDER, CUDA_OPTIONS)])
    finally:
        onnxruntime.set_default_logger_severity(_LOG_WARNINGS)
    if CUDA_PROVIDER not in session.get_providers():  # it has fallen back to the processor
        return (
            f"onnxruntime-gpu {onnxruntime.__version__} finds no GPU, or not the CUDA and cuDNN libraries that it "
            f"needs; see nvidia-smi, and {_INSTALL_CUDA}"
        )
    return ""


def load_cuda_libraries() -> None:
    """Let ONNX Runtime find the CUDA and cuDNN libraries that pip installed; without them it looks in the system."""
    onnxruntime = import_onnxruntime()
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with contextlib.redirect_stdout(io.StringIO()):  # where it prints what it does not find
            onnxruntime.preload_dlls()


def _smallest_model() -> bytes:
    from onnx import TensorProto, helper

    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", [shape], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu_name() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        told = subprocess.run(
            [command, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip().partition("\n")[0]
