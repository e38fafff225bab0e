"""Measures decoders of JPEG, and what decoding at a reduced size saves and costs on large photographs.

    python benchmarks/decoding.py [--images FOLDER] [--count N] [--megapixels M] [--share S] [--grain G] [--rounds N]

First the decoders, on pictures of some sizes and kinds: milliseconds, whether the pixels are facemill's, and whether a
file with damaged pixels is noticed. Then the steps from decoding to aligning on photographs enlarged to M megapixels,
with the policies `full` and `reduced` in turn: pictures per second, and the share of the faces that are found, of those
in FOLDER's `gt.jsonl` where there is one (a JSON line per image: `image`, and `faces` with a `box`), and of each
other's. Enlarged pictures are smooth, so their files are smaller than a camera's; `--grain` adds noise of so many grey
values.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from steps import function_of
from workload import existing, load_pictures

from facemill.models.boxes import box_iou
from facemill.models.options import DetectorOptions
from facemill.transforms.align import AlignFaces
from facemill.transforms.decode import DecodeImages
from facemill.transforms.detect import DetectFaces
from facemill.transforms.elements import Batch, Element
from facemill.transforms.judge import JudgeFaces
from facemill.transforms.landmarks import LocateLandmarks
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.crops import WriteOptions
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.options import DecodeOptions, DecodePolicy, RunOptions
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import ForDetection
from facemill.transforms.ops.verdict import JudgeOptions

POLICIES: tuple[DecodePolicy, ...] = ("full", "reduced")
MIN_SPEED_UP = 3.0
_KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "grey": {},
}
_SIZES_WH = ((250, 250), (1152, 868), (4000, 3000), (5472, 3648))


@dataclass
class Photograph:
    """An encoded picture, and where its faces are."""

    name: str
    data: bytes
    size_wh: tuple[int, int]
    boxes: np.ndarray | None  # (N, 4) px, or None where nobody has said


@dataclass
class Outcome:
    """What one policy gave."""

    rounds: list[dict[str, float]] = field(default_factory=list)  # CPU seconds of each step
    boxes: dict[str, np.ndarray] = field(default_factory=dict)
    num_crops: int = 0

    @property
    def seconds(self) -> dict[str, float]:
        """Median CPU seconds of each step; the first round warmed up."""
        return {name: statistics.median(each[name] for each in self.rounds[1:]) for name in self.rounds[0]}


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=existing, metavar="FOLDER", help="pictures, or gt.jsonl and images/")
    parser.add_argument("--count", type=int, default=12, help="photographs (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=12.0, help="of each (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.05, help="detect.min_face_share (default: %(default)s)")
    parser.add_argument("--grain", type=float, default=0.0, help="noise in grey values (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each policy, in turn (default: %(default)s)")
    parser.add_argument("--only", choices=("decoders", "policies"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.only != "policies":
        compare_decoders(load_pictures(_pictures_of(options.images), size_wh=(1152, 868))[0])
    if options.only != "decoders":
        photographs = enlarge_all(options.images, options.count, options.megapixels, options.grain)
        compare_policies(photographs, options.share, options.rounds)


def compare_decoders(picture: bytes) -> None:
    """Print a line per size and kind."""
    decoders: dict[str, Callable[[bytes], Any]] = {
        "facemill": lambda data: decode_image(data, max_pixels=10**9, min_side_px=1),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "OpenCV": lambda data: cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION),
            cv2.COLOR_BGR2RGB,
        ),
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
    }
    print(f"{'ms':<24}" + "".join(f"{name:>12}" for name in decoders))
    for size_wh in _SIZES_WH:
        for kind, parameters in _KINDS.items():
            data = _encode(_resized(picture, size_wh, grey=kind == "grey"), **parameters)
            times = _time_each(decoders, data)
            expected = decoders["Pillow"](data)
            cells = [
                f"{times[name]:>11.2f}" + (" " if np.array_equal(decode(data), expected) else "*")
                for name, decode in decoders.items()
            ]
            print(f"{size_wh[0]} x {size_wh[1]} {kind:<12}"[:24].ljust(24) + "".join(cells))
    print("* other pixels than Pillow's")


def _time_each(decoders: dict[str, Callable[[bytes], Any]], data: bytes) -> dict[str, float]:
    """Least of some milliseconds, the decoders in turn."""
    least = dict.fromkeys(decoders, float("inf"))
    for _ in range(5 if len(data) > 500_000 else 15):
        for name, decode in decoders.items():
            started_at = time.perf_counter()
            decode(data)
            least[name] = min(least[name], 1000 * (time.perf_counter() - started_at))
    return least


def enlarge_all(folder: Path | None, count: int, megapixels: float, grain: float) -> list[Photograph]:
    """The first pictures of a folder, enlarged, their boxes with them."""
    truth = folder / "gt.jsonl" if folder is not None else None
    if truth is None or not truth.is_file():
        pictures = load_pictures(folder, size_wh=(1152, 868))[:count]
        return [_enlarge(f"{i:03d}", data, None, megapixels, grain) for i, data in enumerate(pictures)]
    assert folder is not None
    lines = [json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines()]
    step = max(1, len(lines) // count)
    return [
        _enlarge(
            line["image"],
            (folder / "images" / line["image"]).read_bytes(),
            [face["box"] for face in line["faces"] if face.get("box")],
            megapixels,
            grain,
        )
        for line in lines[::step][:count]
    ]


def _enlarge(
    name: str, data: bytes, boxes: Sequence[Sequence[float]] | None, megapixels: float, grain: float
) -> Photograph:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    scale = (megapixels * 1e6 / (width * height)) ** 0.5
    size_wh = (round(width * scale), round(height * scale))
    image = _resized(data, size_wh)
    if grain:
        pixels = np.asarray(image, np.float32)
        noise = np.random.default_rng(0).normal(0, grain, pixels.shape[:2]).astype(np.float32)
        image = Image.fromarray(np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8))
    scaled = None if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4) * scale
    return Photograph(name, _encode(image), size_wh, scaled)


def _resized(data: bytes, size_wh: tuple[int, int], *, grey: bool = False) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("L" if grey else "RGB").resize(size_wh, Image.Resampling.BICUBIC)


def _encode(image: Image.Image, **parameters: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **parameters})
    return buffer.getvalue()


def _pictures_of(folder: Path | None) -> Path | None:
    return folder / "images" if folder is not None and (folder / "images").is_dir() else folder


def compare_policies(photographs: Sequence[Photograph], share: float, rounds: int) -> None:
    """Run the policies in turn and print what they took and found."""
    outcomes = {policy: Outcome() for policy in POLICIES}
    for _ in range(rounds + 1):
        for policy, outcome in outcomes.items():
            _run_chain(policy, photographs, share, outcome)
    count = len(photographs)
    num_megapixels = sum(photograph.size_wh[0] * photograph.size_wh[1] for photograph in photographs) / 1e6
    num_bytes = sum(len(photograph.data) for photograph in photographs)
    print(
        f"{count} photographs, {num_megapixels / count:.1f} megapixels and {num_bytes / count / 1e6:.1f} MB each, "
        f"min_face_share {share}"
    )
    for policy, outcome in outcomes.items():
        steps = ", ".join(f"{name} {1000 * seconds / count:.1f}" for name, seconds in outcome.seconds.items())
        found = sum(len(boxes) for boxes in outcome.boxes.values())
        print(f"  {policy:<8}{count / sum(outcome.seconds.values()):6.1f} pictures per CPU second (ms: {steps})")
        print(f"          {found} faces, {outcome.num_crops} crops{_recall_of_truth(photographs, outcome, share)}")
    full, reduced = outcomes["full"], outcomes["reduced"]
    ratio = sum(full.seconds.values()) / sum(reduced.seconds.values())
    print(f"  reduced is {ratio:.2f} times as fast in CPU seconds (at least {MIN_SPEED_UP})")
    print(
        f"  faces of full found by reduced {_recall(full.boxes, reduced.boxes):.4f}, "
        f"of reduced by full {_recall(reduced.boxes, full.boxes):.4f}"
    )


def _run_chain(policy: DecodePolicy, photographs: Sequence[Photograph], share: float, outcome: Outcome) -> None:
    """All steps but reading and writing, as the graph takes them, without the runner."""
    detector = DetectorOptions(min_face_share=share)
    steps = {
        "decode": DecodeImages(DecodeOptions(policy=policy), RunOptions().batch_pixels, ForDetection(detector)),
        "detect": DetectFaces(detector),
        "landmarks": LocateLandmarks(detector, False),
        "judge": JudgeFaces(JudgeOptions()),
        "align": AlignFaces(AlignOptions(), WriteOptions()),
    }
    functions = {name: function_of(step) for name, step in steps.items()}
    seconds = dict.fromkeys(functions, 0.0)
    outcome.num_crops = 0
    for photograph in photographs:
        element: Element = Batch("unit", (ImageRecord(0, photograph.name, "", "", data=photograph.data),))
        for name, function in functions.items():
            started_at = time.process_time()
            (element,) = function.process(element)
            seconds[name] += time.process_time() - started_at
        assert isinstance(element, Batch)
        (record,) = element.records
        if record.faces is None:
            raise RuntimeError(f"{photograph.name} failed: {record.failure}")
        outcome.boxes[photograph.name] = record.faces.boxes
        outcome.num_crops += sum(crop is not None for crop in record.faces.crops)
    outcome.rounds.append(seconds)


def _recall_of_truth(photographs: Sequence[Photograph], outcome: Outcome, share: float) -> str:
    truth = {}
    for photograph in photographs:
        if photograph.boxes is None:
            return ""
        sides = (photograph.boxes[:, 2:] - photograph.boxes[:, :2]).min(axis=1)
        truth[photograph.name] = photograph.boxes[sides >= share * min(photograph.size_wh)]
    num_faces = sum(len(boxes) for boxes in truth.values())
    return f", recall at IoU 0.5 {_recall(truth, outcome.boxes):.4f} of {num_faces} true faces"


def _recall(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """The share of the boxes in `wanted` that some box of the same picture in `found` meets at IoU 0.5."""
    nothing = np.zeros((0, 4))
    hits = [box_iou(boxes, found.get(name, nothing)).max(axis=1, initial=0) > 0.5 for name, boxes in wanted.items()]
    every = np.concatenate([np.zeros(0, bool), *hits])
    return float(every.mean()) if len(every) else float("nan")


if __name__ == "__main__":
    sys.exit(main())
