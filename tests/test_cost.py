"""What images cost, counted and not timed: a step back shows on any machine, however busy.

Every figure below is today's; a limit is a tenth more. A test that fails says what has grown. Who makes something
cheaper lowers its figure, or the next step back goes unnoticed.
"""

from __future__ import annotations

import math
import platform
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import onnx
import onnxruntime
import PIL.ImageFile
import pytest
import simplejpeg  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from pictures import astronaut, coffee, jpeg, portrait, read_table, write_loose
from PIL import Image

from facemill import models, pipeline, transforms
from facemill.models import FaceDetector
from facemill.models.sessions import _one_thread_options, open_session
from facemill.models.weights import NetworkName, load_weights
from facemill.pipeline.config import load_config
from facemill.pipeline.graph import process_units
from facemill.pipeline.job import Job
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

SLACK = 1.1

# What detection at the default options takes.
PORTRAIT = {  # 144 x 144 px, one face
    "P-Net's runs": 6,
    "P-Net's pixels": 14_636,
    "P-Net's pixels at once": 7_396,
    "R-Net's runs": 2,
    "R-Net's windows": 26,
    "O-Net's runs": 2,
    "O-Net's windows": 7,
    "cv2.resize": 10,
    "pixels into cv2.resize": 125_748,
    "pixels from cv2.resize": 37_568,
    "cv2.warpAffine": 33,
    "pixels from cv2.warpAffine": 79_488,
    "cv2.copyMakeBorder": 0,
    "pixels from cv2.copyMakeBorder": 0,
    "calls in Python": 795,
    "bytes at the peak": 247_097,
    "bytes at the peak per pixel": 11.92,
}
FACE = {  # 512 x 512 px, one face
    "P-Net's runs": 21,
    "P-Net's pixels": 206_520,
    "P-Net's pixels at once": 23_716,
    "R-Net's runs": 9,
    "R-Net's windows": 136,
    "O-Net's runs": 3,
    "O-Net's windows": 11,
    "cv2.resize": 16,
    "pixels into cv2.resize": 887_040,
    "pixels from cv2.resize": 302_020,
    "cv2.warpAffine": 147,
    "pixels from cv2.warpAffine": 179_712,
    "cv2.copyMakeBorder": 0,
    "pixels from cv2.copyMakeBorder": 0,
    "calls in Python": 1_778,
    "bytes at the peak": 629_212,
    "bytes at the peak per pixel": 2.4,
}
SCENE = {  # 600 x 400 px, no face
    "P-Net's runs": 18,
    "P-Net's pixels": 187_573,
    "P-Net's pixels at once": 16_128,
    "R-Net's runs": 9,
    "R-Net's windows": 129,
    "O-Net's runs": 1,
    "O-Net's windows": 2,
    "cv2.resize": 14,
    "pixels into cv2.resize": 736_632,
    "pixels from cv2.resize": 257_721,
    "cv2.warpAffine": 131,
    "pixels from cv2.warpAffine": 92_736,
    "cv2.copyMakeBorder": 1,
    "pixels from cv2.copyMakeBorder": 3_800,
    "calls in Python": 1_524,
    "bytes at the peak": 575_943,
    "bytes at the peak per pixel": 2.4,
}
CROWD = {  # 1536 x 1024 px, six faces
    "P-Net's runs": 80,
    "P-Net's pixels": 1_277_532,
    "P-Net's pixels at once": 21_280,
    "R-Net's runs": 50,
    "R-Net's windows": 800,
    "O-Net's runs": 14,
    "O-Net's windows": 53,
    "cv2.resize": 20,
    "pixels into cv2.resize": 6_778_750,
    "pixels from cv2.resize": 2_177_530,
    "cv2.warpAffine": 853,
    "pixels from cv2.warpAffine": 949_248,
    "cv2.copyMakeBorder": 0,
    "pixels from cv2.copyMakeBorder": 0,
    "calls in Python": 6_206,
    "bytes at the peak": 3_753_629,
    "bytes at the peak per pixel": 2.39,
}
LARGE = {  # 3000 x 2500 px, one face
    "P-Net's runs": 308,
    "P-Net's pixels": 6_152_296,
    "P-Net's pixels at once": 21_608,
    "R-Net's runs": 49,
    "R-Net's windows": 771,
    "O-Net's runs": 3,
    "O-Net's windows": 12,
    "cv2.resize": 25,
    "pixels into cv2.resize": 31_988_200,
    "pixels from cv2.resize": 10_301_281,
    "cv2.warpAffine": 783,
    "pixels from cv2.warpAffine": 554_688,
    "cv2.copyMakeBorder": 5,
    "pixels from cv2.copyMakeBorder": 626_708,
    "calls in Python": 8_396,
    "bytes at the peak": 17_815_849,
    "bytes at the peak per pixel": 2.38,
}
# What decoding takes, bytes for each pixel; an upright copy is made of a picture that is turned.
DECODING = {
    "plain": {"calls in Python": 94, "bytes at the peak per pixel": 3.0},
    "progressive": {"calls in Python": 210, "bytes at the peak per pixel": 3.0},
    "turned": {"calls in Python": 307, "bytes at the peak per pixel": 6.3},
}
# What ONNX Runtime does for a tile of P-Net's or a patch, multiply-adds for each of the paper's. More than one is PReLU
# and padding; R-Net's first layer, which has slopes below 0 and above 1, has 48 channels for 28.
NETWORKS: dict[NetworkName, dict[str, float]] = {
    "pnet": {"operators": 16, "multiply-adds": 1.23, "values written": 1_736_876},
    "rnet": {"operators": 20, "multiply-adds": 1.51, "values written": 53_104},
    "onet": {"operators": 24, "multiply-adds": 1.02, "values written": 335_632},
}
# What the whole graph takes for the four photographs below, of which every pixel is decoded once, and of a share of
# them with `decode.policy=reduced`, where two pictures are decoded anew for the crops.
FULL = {
    "P-Net's pixels": 146_888,
    "R-Net's windows": 174,
    "O-Net's windows": 22,
    "P-Net's pixels at once": 14_520,
    "decoded pixels": 9_137_390,
    "decoded pictures": 4,
    "P-Net's runs": 30,
    "R-Net's runs": 12,
    "O-Net's runs": 6,
}
REDUCED = {**FULL, "decoded pixels": 2_587_764, "decoded pictures": 6}


def limit(figure: float) -> float:
    """A tenth more; of what is counted at least one, for another OpenCV may show a network a window more."""
    return max(figure * SLACK, figure + 1) if isinstance(figure, int) else figure * SLACK


def check_costs(costs: Mapping[str, float], figures: Mapping[str, float], of_what: str) -> None:
    assert set(costs) == set(figures)
    grown = [
        f"{name}: {costs[name]:,.6g}, was {figure:,.6g}, at most {limit(figure):,.6g}"
        for name, figure in figures.items()
        if costs[name] > limit(figure)
    ]
    assert not grown, f"{of_what} costs more than it did:\n" + "\n".join(grown)


@lru_cache(maxsize=1)
def detector() -> FaceDetector:
    return FaceDetector()


@contextmanager
def counted_runs(counts: Counter[str]) -> Iterator[None]:
    """Counts what the networks are given, by any session in this process."""
    run = onnxruntime.InferenceSession.run
    sides = {24: ("R-Net's runs", "R-Net's windows"), 48: ("O-Net's runs", "O-Net's windows")}

    def count_run(self: Any, names: Any, feed: dict[str, np.ndarray], *rest: Any) -> Any:
        (pixels,) = feed.values()
        side = self.get_inputs()[0].shape[1]
        runs, given = sides.get(side, ("P-Net's runs", "P-Net's pixels"))
        counts[runs] += 1
        counts[given] += len(pixels) if side in sides else pixels.size // 3
        if side not in sides:
            counts["P-Net's pixels at once"] = max(counts["P-Net's pixels at once"], pixels.size // 3)
        return run(self, names, feed, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "run", count_run)
        yield


@contextmanager
def counted_opencv(counts: Counter[str]) -> Iterator[None]:
    """Counts what OpenCV interpolates."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("resize", "warpAffine", "copyMakeBorder"):
            patch.setattr(cv2, name, counting_pixels(getattr(cv2, name), f"cv2.{name}", counts))
        yield


def counting_pixels(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def count(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        counts[name] += 1
        if name == "cv2.resize":
            counts["pixels into cv2.resize"] += arguments[0].shape[0] * arguments[0].shape[1]
        counts[f"pixels from {name}"] += result.shape[0] * result.shape[1]
        return result

    return count


OUR_FOLDERS = tuple(str(Path(str(part.__file__)).parent) for part in (models, transforms, pipeline))


def count_calls(function: Callable[[], object]) -> int:
    """The calls that facemill's own code makes, of functions in Python and in C; what these call is theirs."""
    num_calls = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal num_calls
        caller = frame.f_back if event == "call" else frame if event == "c_call" else None
        num_calls += caller is not None and caller.f_code.co_filename.startswith(OUR_FOLDERS)

    previous = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return num_calls


def peak_bytes(function: Callable[[], object]) -> int:
    """What Python and NumPy hold at most beyond what they held before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def costs_of_detection(image: np.ndarray) -> Counter[str]:
    detect = detector().detect
    detect(image)  # what is made once is no cost of the image
    costs: Counter[str] = Counter(
        {"calls in Python": count_calls(lambda: detect(image)), "bytes at the peak": peak_bytes(lambda: detect(image))}
    )
    with counted_runs(costs), counted_opencv(costs):
        detect(image)
    costs["bytes at the peak per pixel"] = costs["bytes at the peak"] / (image.size // 3)  # type: ignore[assignment]
    return costs


def costs_of(figures: Mapping[str, float], costs: Counter[str]) -> dict[str, float]:
    """With a zero for what was not needed."""
    return {name: costs[name] for name in {*figures, *costs}}


@pytest.mark.parametrize(
    ("picture", "figures"),
    [
        (lambda: decode(portrait(0)), PORTRAIT),
        (astronaut, FACE),
        (coffee, SCENE),
        (lambda: np.tile(astronaut(), (2, 3, 1)), CROWD),
        (lambda: cv2.resize(astronaut(), (3000, 2500), interpolation=cv2.INTER_CUBIC), LARGE),
    ],
    ids=["portrait", "face", "scene", "crowd", "large"],
)
def test_detection(picture: Callable[[], np.ndarray], figures: dict[str, float]) -> None:
    check_costs(costs_of(figures, costs_of_detection(picture())), figures, "Detection")


def decode(data: bytes) -> np.ndarray:
    return decode_image(data, max_pixels=10**9, min_side_px=1)


def turned_jpeg(image: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: a quarter to the right
    return jpeg(image, exif=exif.tobytes())


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("plain", jpeg(astronaut())),
        ("progressive", jpeg(coffee(), progressive=True)),
        ("turned", turned_jpeg(cv2.resize(coffee(), (1800, 1200)))),
    ],
)
def test_decoding(kind: str, data: bytes) -> None:
    num_pixels = decode(data).size // 3
    costs = {
        "calls in Python": count_calls(lambda: decode(data)),
        "bytes at the peak per pixel": peak_bytes(lambda: decode(data)) / num_pixels,
    }
    check_costs(costs, DECODING[kind], f"Decoding a {kind} JPEG")


# Zhang et al. 2016, figure 2: kernel, channels, and max pooling of each layer; the outputs last, of the score's two the
# difference alone. A dense layer is a convolution over all that is left.
LAYERS: dict[NetworkName, tuple[tuple[int, int, int], ...]] = {
    "pnet": ((3, 10, 2), (3, 16, 0), (3, 32, 0), (1, 5, 0)),
    "rnet": ((3, 28, 3), (3, 48, 3), (2, 64, 0), (3, 128, 0), (1, 5, 0)),
    "onet": ((3, 32, 3), (3, 64, 3), (3, 64, 2), (2, 128, 0), (3, 256, 0), (1, 15, 0)),
}
# One tile of P-Net's, one patch.
SIDES_PX: dict[NetworkName, int] = {"pnet": 154, "rnet": 24, "onet": 48}


def multiply_adds_of_the_paper(network: NetworkName) -> int:
    side, num_inputs, total = SIDES_PX[network], 3, 0
    for kernel_px, num_outputs, pool_px in LAYERS[network]:
        side -= kernel_px - 1
        total += side**2 * kernel_px**2 * num_inputs * num_outputs
        side = -(-(side - pool_px) // 2) + 1 if pool_px else side
        num_inputs = num_outputs
    assert side == (1 if network != "pnet" else 72)
    return total


def loaded_graph(network: NetworkName) -> bytes:
    """What a session of this network hands to ONNX Runtime."""
    loaded: list[bytes] = []
    begin = onnxruntime.InferenceSession.__init__

    def note(self: Any, model: bytes, *arguments: Any, **options: Any) -> None:
        loaded.append(model)
        begin(self, model, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "__init__", note)
        open_session(network, load_weights(network))
    (model,) = loaded
    return model


def costs_of_network(network: NetworkName, folder: Path) -> dict[str, int]:
    """What ONNX Runtime does for one input, after its optimization: padding of channels and PReLU included.

    Multiply-adds are those of the convolutions; values written are the outputs of all operators, for most of these wait
    for memory and not for arithmetic.
    """
    options = _one_thread_options()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(loaded_graph(network), sess_options=options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    kernels = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    side = SIDES_PX[network]
    shapes = {"pixels": (1, side, 3 * side)}  # channels, rows, values in a row: R, G, B, R, ...
    costs = Counter(operators=0)
    for node in graph.node:
        channels, *shape = shapes[node.input[0]]
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in ("Conv", "MaxPool"):
            ragged = attributes.get("ceil_mode", 0)
            spans = zip(shape, attributes["kernel_shape"], attributes["strides"], strict=True)
            shape = [(length - kernel + ragged * (stride - 1)) // stride + 1 for length, kernel, stride in spans]
        if node.op_type == "Conv":
            kernel = kernels[node.input[1]]
            channels = kernel[0]
            costs["multiply-adds"] += math.prod(shape) * math.prod(kernel)
        shapes[node.output[0]] = (channels, *shape)
        costs["operators"] += 1
        # To reshape takes no copy.
        costs["values written"] += 0 if node.op_type in ("Reshape", "Unsqueeze") else channels * math.prod(shape)
    return costs


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="blocks of channels are for x86")
@pytest.mark.parametrize("network", SIDES_PX)
def test_networks(network: NetworkName, tmp_path: Path) -> None:
    costs = costs_of_network(network, tmp_path)
    ratio = costs["multiply-adds"] / multiply_adds_of_the_paper(network)
    check_costs({**costs, "multiply-adds": ratio}, NETWORKS[network], network)


@contextmanager
def counted_decoding(counts: Counter[str]) -> Iterator[None]:
    """Counts the pictures that are decoded, by any decoder, and their pixels as decoded."""
    load = PIL.ImageFile.ImageFile.load

    def count_load(self: PIL.ImageFile.ImageFile) -> Any:
        counts["decoded pictures"] += 1
        counts["decoded pixels"] += self.size[0] * self.size[1]
        return load(self)

    def counting(decode: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            pixels = decode(*arguments, **options)
            counts["decoded pictures"] += 1
            counts["decoded pixels"] += pixels.shape[0] * pixels.shape[1]
            return pixels

        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIL.ImageFile.ImageFile, "load", count_load)
        patch.setattr(simplejpeg, "decode_jpeg", counting(simplejpeg.decode_jpeg))
        patch.setattr(cv2, "imdecode", counting(cv2.imdecode))
        yield


def costs_of_run(files: dict[str, bytes], folder: Path, *settings: str) -> Counter[str]:
    """What the whole graph, from files to shards, decodes and gives to the networks; in this process."""
    write_loose(folder / "in", files)
    sizes = tuple(map(len, files.values()))
    unit = Unit("unit-0", "files", tuple(f"in/{name}" for name in files), sizes, sum(sizes), 0, len(sizes))
    job = Job(load_config(None, settings), {"in": Folder(str(folder / "in"))}, Folder(str(folder / "out")))
    costs: Counter[str] = Counter()
    options = PipelineOptions(flags=[], direct_running_mode="in_memory")
    with counted_decoding(costs), counted_runs(costs), beam.Pipeline(runner=FnApiRunner(), options=options) as graph:
        process_units(graph | beam.Create([unit], reshuffle=False), job=job, quarantined={})
    statuses = {row["image_id"]: row["status"] for row in read_table(folder / "out", "images")}
    assert statuses == {f"in/{name}": "ok" if name.startswith("face") else "no_face" for name in files}
    return costs


@lru_cache(maxsize=1)
def photographs() -> dict[str, bytes]:
    """Two with a face of 279 x 340 px in 1555 x 1549, two without."""
    face, scene = (
        jpeg(np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BICUBIC)))
        for image, size_wh in ((astronaut(), (1555, 1549)), (coffee(), (1800, 1200)))
    )
    return {"face_0.jpg": face, "face_1.jpg": face, "scene_0.jpg": scene, "scene_1.jpg": scene}


SETTINGS = ("detect.min_face_share=0.1",)


def test_each_picture_is_decoded_once(tmp_path: Path) -> None:
    costs = costs_of_run(photographs(), tmp_path, *SETTINGS)
    assert costs["decoded pictures"] == 4
    assert costs["decoded pixels"] == 2 * 1555 * 1549 + 2 * 1800 * 1200
    check_costs(costs_of(FULL, costs), FULL, "A run")


def test_fewer_pixels_are_decoded_where_faces_are_large(tmp_path: Path) -> None:
    costs = costs_of_run(photographs(), tmp_path, *SETTINGS, "decode.policy=reduced")
    check_costs(costs_of(REDUCED, costs), REDUCED, "A run that decodes at a reduced size")


def test_a_picture_without_faces_is_decoded_once_at_a_reduced_size(tmp_path: Path) -> None:
    scene = {"scene_0.jpg": photographs()["scene_0.jpg"]}
    costs = costs_of_run(scene, tmp_path, "detect.min_face_share=0.25", "decode.policy=reduced")
    assert (costs["decoded pictures"], costs["decoded pixels"]) == (1, 225 * 150)


def test_a_run_asks_the_networks_no_more_than_the_detector_does(tmp_path: Path) -> None:
    files = {f"face_{number}.jpg": portrait(number) for number in range(6)}
    costs = costs_of_run(files, tmp_path)
    bare: Counter[str] = Counter()
    with counted_runs(bare):
        for data in files.values():
            detector().detect(decode(data))
    assert bare["P-Net's runs"] >= 6
    assert {name: costs[name] for name in bare} == bare
