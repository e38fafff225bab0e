"""Where facemill's time goes on one core, and how far each step is from what the core could do.

    python benchmarks/limits.py [FOLDER] [--count N] [--min-face PX]

The limit of the decoding is the fastest JPEG decoder at hand: OpenCV, Pillow and simplejpeg. That
of a network is the number of its multiply-adds, on exactly the arrays that it was given, at the highest rate that a
matrix product or a convolution reaches on this core; PReLU, pooling and all other steps count nothing, so that no
program can reach it. Beside it stands what OpenVINO takes for the same graphs on the same arrays, if it is installed:
the plain graphs and those made for ONNX Runtime. Seconds are CPU seconds of one thread; of several rounds the least
counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from workload import existing, load_pictures

from facemill.models import Cascade, DetectorOptions, cascade
from facemill.models.graphs import build_graph
from facemill.models.pyramid import ImagePyramid
from facemill.models.weights import NetworkName, load_weights
from facemill.transforms.ops.decoding import decode_image

MADE_WH = (1000, 750)
NETWORKS: dict[NetworkName, str] = {"pnet": "P-Net", "rnet": "R-Net", "onet": "O-Net"}
# What is timed within the detection: the functions of a module, and the step that each is. A step within another counts
# for the outer one.
FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (cv2, "resize", "pyramid"),
    (cascade, "cut_patches", "cutting patches"),
    (cascade, "nms", "suppression"),
    (cascade, "suppress_cells", "suppression"),
)
STEPS = ("decoding", "pyramid", "P-Net", "suppression", "cutting patches", "R-Net", "O-Net", "the rest")


@dataclass(frozen=True)
class Layer:
    kernel_px: int
    inputs: int
    outputs: int
    pool_px: int = 0  # max pooling after it, stride 2, ragged ends kept


# Zhang et al. 2016, figure 2; the last layer is that of the outputs, with one for the score. A dense layer is a
# convolution over all that is left.
LAYERS: dict[NetworkName, tuple[Layer, ...]] = {
    "pnet": (Layer(3, 3, 10, 2), Layer(3, 10, 16), Layer(3, 16, 32), Layer(1, 32, 5)),
    "rnet": (Layer(3, 3, 28, 3), Layer(3, 28, 48, 3), Layer(2, 48, 64), Layer(3, 64, 128), Layer(1, 128, 5)),
    "onet": (
        *(Layer(3, 3, 32, 3), Layer(3, 32, 64, 3), Layer(3, 64, 64, 2)),
        *(Layer(2, 64, 128), Layer(3, 128, 256), Layer(1, 256, 15)),
    ),
}


@dataclass
class Measured:
    """One picture: least CPU seconds of each step, decoder and OpenVINO network, and multiply-adds of each network."""

    name: str
    megapixels: float
    steps: dict[str, float] = field(default_factory=dict)
    decoders: dict[str, float] = field(default_factory=dict)
    openvino: dict[str, dict[str, float]] = field(default_factory=dict)  # form of the graphs -> network -> s
    multiply_adds: dict[str, float] = field(default_factory=dict)
    num_patches: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(self.steps.values())

    def limits(self, peak: float) -> dict[str, float]:
        return {"decoding": min(self.decoders.values()), **{n: c / peak for n, c in self.multiply_adds.items()}}


class Clock:
    """CPU seconds per step, and what each network was given."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inputs: dict[str, list[np.ndarray]] = defaultdict(list)
        self._is_running = False

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if self._is_running:
                return function(*arguments, **keywords)
            self._is_running = True
            started_at = time.process_time()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[step] += time.process_time() - started_at
                self._is_running = False

        return call

    def network(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        timed = self.timed(name, run)

        def call(array: np.ndarray) -> Any:
            self.inputs[name].append(array.copy())
            return timed(array)

        return call


def main() -> None:
    options = parse_arguments()
    cv2.setNumThreads(1)
    peaks = measure_peaks()
    pictures = load(options.folder, options.count)
    detector = Cascade(DetectorOptions(min_face_size_px=options.min_face))
    openvino = load_openvino()
    measured = [measure(name, data, detector, openvino, options.rounds) for name, data in pictures]
    peaks = {
        name: max(rate, again) for (name, rate), again in zip(peaks.items(), measure_peaks().values(), strict=True)
    }
    for name, rate in peaks.items():
        print(f"{rate / 1e9:6.1f} thousand million multiply-adds a second: {name}")
    print_pictures(measured, max(peaks.values()))
    print_steps(measured, max(peaks.values()))
    if not openvino:
        print("OpenVINO is not installed here: pip install openvino")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing, nargs="?", help="pictures; without it they are made")
    parser.add_argument("--count", type=int, default=20, help="take so many, evenly spaced")
    parser.add_argument("--min-face", type=float, default=20.0, metavar="PX")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def load(folder: Path | None, count: int) -> list[tuple[str, bytes]]:
    files = load_pictures(folder, size_wh=MADE_WH)
    count = min(count, len(files))
    indices = [number * len(files) // count for number in range(count)]
    return [(f"{index}", files[index]) for index in indices]


def measure_peaks() -> dict[str, float]:
    """Multiply-adds a second of one core, by several programs."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("limits_peak.py"))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    peaks: dict[str, float] = json.loads(output)
    return peaks


def measure(
    name: str, data: bytes, detector: Cascade, openvino: dict[str, dict[str, Callable[..., Any]]], rounds: int
) -> Measured:
    image = decode_image(data, max_pixels=1 << 28, min_side_px=1)
    measured = Measured(name, image.shape[0] * image.shape[1] / 1e6)
    detect_in_steps(detector, image)  # for the shapes' sake
    for _ in range(rounds):
        for decoder, decode in DECODERS.items():
            keep_least(measured.decoders, decoder, seconds_of(decode, data))
        steps, inputs = detect_in_steps(detector, image)
        steps["decoding"] = measured.decoders["facemill"]
        if not measured.steps or sum(steps.values()) < measured.seconds:
            measured.steps = steps
        for form, networks in openvino.items():
            times = measured.openvino.setdefault(form, {})
            for network, run in networks.items():
                keep_least(times, network, sum(seconds_of(run, array) for array in inputs.get(network, [])))
    for network, title in NETWORKS.items():
        arrays = inputs.get(title, [])
        measured.multiply_adds[title] = sum(multiply_adds(network, array.shape[:3]) for array in arrays)
        measured.num_patches[title] = sum(len(array) for array in arrays)
    return measured


def detect_in_steps(detector: Cascade, image: np.ndarray) -> tuple[dict[str, float], dict[str, list[np.ndarray]]]:
    """CPU seconds of each step of one detection, and the arrays that the networks were given."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        for network, title in NETWORKS.items():
            run = getattr(detector, f"_{network}")
            stack.enter_context(replaced(detector, f"_{network}", clock.network(title, run)))
        for owner, attribute, step in FUNCTIONS:
            stack.enter_context(replaced(owner, attribute, clock.timed(step, getattr(owner, attribute))))
        total_s = seconds_of(detect, detector, image)
    return {**clock.seconds, "the rest": total_s - sum(clock.seconds.values())}, dict(clock.inputs)


def detect(detector: Cascade, image: np.ndarray) -> None:
    pyramid = ImagePyramid(image)
    detector.refine(pyramid, detector.propose(pyramid).boxes)


@contextlib.contextmanager
def replaced(owner: Any, attribute: str, value: Any) -> Any:
    original = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, original)


def seconds_of(run: Callable[..., Any], *arguments: Any) -> float:
    started_at = time.process_time()
    run(*arguments)
    return time.process_time() - started_at


def keep_least(times: dict[str, float], key: str, seconds: float) -> None:
    times[key] = min(seconds, times.get(key, seconds))


def multiply_adds(network: NetworkName, shape: tuple[int, ...]) -> float:
    """Of the convolutions and dense layers on an input of shape (N, height, width)."""
    num_patches, height, width = shape
    total = 0
    for layer in LAYERS[network]:
        height, width = height - layer.kernel_px + 1, width - layer.kernel_px + 1
        total += height * width * layer.kernel_px**2 * layer.inputs * layer.outputs
        if layer.pool_px:
            height, width = (-(-(side - layer.pool_px) // 2) + 1 for side in (height, width))
    return num_patches * total


def decode_opencv(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def decode_pillow(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decode_facemill(data: bytes) -> Any:
    return decode_image(data, max_pixels=1 << 28, min_side_px=1)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "facemill": decode_facemill,
    "OpenCV": decode_opencv,
    "Pillow": decode_pillow,
    "simplejpeg": simplejpeg.decode_jpeg,
}


def load_openvino() -> dict[str, dict[str, Callable[..., Any]]]:
    """Form of the graphs -> network -> OpenVINO's program for it; nothing where OpenVINO is not installed."""
    if not find_spec("openvino"):
        return {}
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}

    def load_network(network: NetworkName, form: Any) -> Callable[[np.ndarray], Any]:
        model = core.read_model(build_graph(network, load_weights(network), form))
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda array: request.infer([array], share_inputs=True)

    forms = ("plain", "fast")
    return {form: {title: load_network(name, form) for name, title in NETWORKS.items()} for form in forms}


def print_pictures(measured: list[Measured], peak: float) -> None:
    print("\npicture  megapixels  decoding ms  detection ms  limit ms  limit / real  windows for R-Net, O-Net")
    for one in measured:
        decoding_s, limit_s = one.steps["decoding"], sum(one.limits(peak).values())
        print(
            f"{one.name:>7}{one.megapixels:12.2f}{1e3 * decoding_s:13.1f}{1e3 * (one.seconds - decoding_s):14.1f}"
            f"{1e3 * limit_s:10.1f}{limit_s / one.seconds:14.2f}"
            f"{one.num_patches['R-Net']:13d}{one.num_patches['O-Net']:5d}"
        )


def print_steps(measured: list[Measured], peak: float) -> None:
    megapixels = sum(one.megapixels for one in measured)
    real = {step: sum(one.steps.get(step, 0.0) for one in measured) for step in STEPS}
    limits = {step: sum(one.limits(peak).get(step, 0.0) for one in measured) for step in STEPS}
    forms = list(measured[0].openvino)
    real["all"], limits["all"] = sum(real.values()), sum(limits.values())
    rows = [("step", "ms", "per MP", "share", "limit ms", "limit / real", *(f"OpenVINO, {form}" for form in forms))]
    for step, seconds in real.items():
        times = cells(seconds, len(measured), megapixels)
        limit = fractions(limits[step], seconds, len(measured))
        others = [openvino_cell(measured, form, step) for form in forms]
        rows.append((step, *times, f"{seconds / real['all']:.0%}", *limit, *others))
    print(f"\n{len(measured)} pictures, {megapixels:.1f} megapixels; ms per picture, ms per megapixel\n")
    print_table(rows)
    print(f"\ndecoding, ms per megapixel: {', '.join(decoder_times(measured, megapixels))}")
    for network in NETWORKS.values():
        count = sum(one.multiply_adds[network] for one in measured)
        print(f"{network}: {count / megapixels / 1e6:.0f} million multiply-adds per megapixel")


def cells(seconds: float, num_pictures: int, megapixels: float) -> tuple[str, str]:
    return f"{1e3 * seconds / num_pictures:.2f}", f"{1e3 * seconds / megapixels:.2f}"


def fractions(limit_s: float, real_s: float, num_pictures: int) -> tuple[str, str]:
    return (f"{1e3 * limit_s / num_pictures:.2f}", f"{limit_s / real_s:.2f}") if limit_s else ("-", "-")


def openvino_cell(measured: list[Measured], form: str, step: str) -> str:
    """OpenVINO's ms for a network; for all, facemill's other steps with OpenVINO's networks."""
    if step == "all":
        seconds = sum(one.seconds - networks_s(one) + sum(one.openvino[form].values()) for one in measured)
    elif step in NETWORKS.values():
        seconds = sum(one.openvino[form][step] for one in measured)
    else:
        return "-"
    return f"{1e3 * seconds / len(measured):.2f}"


def networks_s(one: Measured) -> float:
    return sum(one.steps.get(network, 0.0) for network in NETWORKS.values())


def decoder_times(measured: list[Measured], megapixels: float) -> list[str]:
    return [f"{name} {1e3 * sum(one.decoders[name] for one in measured) / megapixels:.1f}" for name in DECODERS]


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("|", " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), "|")
        if not number:
            print("|", " | ".join("-" * width for width in widths), "|")


if __name__ == "__main__":
    main()
