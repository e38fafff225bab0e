"""One program that detects faces, as a process that `peers.py` talks to; runs in that program's environment.

    python peers_worker.py PROGRAM MIN_FACE_PX ACCELERATOR MEMORY_LIMIT_MB

The first line of standard input is a JSON list of files: they are read, the program is loaded, and the answer is a JSON
object that says what runs. Each line after that is the number of a file: the answer says what it took from the file's
bytes to boxes and points. An empty line asks for the memory used so far. Answers are JSON lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Detect = Callable[[bytes], int]  # the bytes of a picture file -> how many faces
_MAX_PIXELS = 1 << 28


def main() -> None:
    program, min_face_px, accelerator, memory_limit_mb = sys.argv[1:]
    answers = _claim_standard_output()
    files = [Path(name).read_bytes() for name in json.loads(sys.stdin.readline())]
    detect, description = _LOADERS[program](float(min_face_px), accelerator)
    start_mb = _memory_mb("VmRSS")
    _forget_peak()
    _limit_memory(int(memory_limit_mb))
    _answer(answers, {"description": description})
    for line in sys.stdin:
        if line.strip():
            _answer(answers, _measure(detect, files[int(line)]))
        else:
            _answer(answers, {"start_mb": start_mb, "peak_mb": _memory_mb("VmHWM")})


def _claim_standard_output() -> Any:
    """Keep standard output for the answers; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _answer(answers: Any, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


def _measure(detect: Detect, data: bytes) -> dict[str, Any]:
    cpu_s, wall_s = time.process_time(), time.perf_counter()  # the CPU time of all threads
    try:
        result: dict[str, Any] = {"faces": detect(data)}
    except Exception as error:  # whatever a program does to a picture is a result
        result = {"error": "out of memory" if _is_out_of_memory(error) else f"{type(error).__name__}: {error}"[:100]}
    return {**result, "cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - wall_s}


def _is_out_of_memory(error: Exception) -> bool:
    names = ("OutOfMemory", "ResourceExhausted", "alloc", "memory")
    return isinstance(error, MemoryError) or any(name in f"{type(error).__name__}: {error}" for name in names)


def _memory_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def _forget_peak() -> None:
    """Start VmHWM again from the memory in use, without what loading took for a moment."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _limit_memory(limit_mb: int) -> None:
    # Written private memory, and not the address space: libraries of CUDA map many GB that they never touch.
    limit = limit_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _load_facemill(min_face_px: float, accelerator: str) -> tuple[Detect, str]:
    import cv2
    import onnxruntime

    from facemill.models import FaceDetector
    from facemill.transforms.ops.decoding import decode_image

    cv2.setNumThreads(1)
    chosen: dict[str, Any] = {} if accelerator == "cpu" else {"accelerator": accelerator}
    detector = FaceDetector(min_face_size_px=min_face_px, **chosen)

    def detect(data: bytes) -> int:
        return len(detector.detect(decode_image(data, max_pixels=_MAX_PIXELS, min_side_px=1)))

    return detect, f"facemill, onnxruntime {onnxruntime.__version__}, accelerator {accelerator}, its own decoding"


def _load_facenet_pytorch(min_face_px: float, accelerator: str) -> tuple[Detect, str]:
    import torch
    import torchvision
    from facenet_pytorch import MTCNN
    from PIL import Image

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    model = MTCNN(keep_all=True, min_face_size=min_face_px, device="cpu")

    def detect(data: bytes) -> int:
        boxes, _, _ = model.detect(Image.open(io.BytesIO(data)).convert("RGB"), landmarks=True)
        return 0 if boxes is None else len(boxes)

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return detect, f"facenet-pytorch {_version('facenet-pytorch')}, {versions}, pictures opened by Pillow"


def _load_mtcnn(min_face_px: float, accelerator: str) -> tuple[Detect, str]:
    import tensorflow
    from mtcnn import MTCNN

    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    model = MTCNN(device="CPU:0")

    def detect(data: bytes) -> int:
        return len(model.detect_faces(data, min_face_size=min_face_px))

    return detect, f"mtcnn {_version('mtcnn')}, tensorflow {tensorflow.__version__}, pictures decoded by its load_image"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


_LOADERS: dict[str, Callable[[float, str], tuple[Detect, str]]] = {
    "facemill": _load_facemill,
    "facenet-pytorch": _load_facenet_pytorch,
    "mtcnn": _load_mtcnn,
}

if __name__ == "__main__":
    main()
