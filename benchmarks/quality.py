"""What the quality columns are worth and what they cost, on folders of pictures.

    python benchmarks/quality.py FOLDER... [--every N] [--faces N]

FOLDER holds `images/` and, where there is truth, `gt.jsonl` as for `accuracy.py`. Each picture goes through the steps
of `facemill run` with the default configuration. Printed are, for each folder:

- the CPU time that the columns cost, which is that of judging without pose and verdict, beside all else;
- percentiles of each column over all faces;
- what worse copies of N canonical crops, of faces with an eye distance of 30 px and more, do to the sharpness: how
  often it falls from one copy to the next worse one, and the AUC for telling the unharmed crops of all faces from them;
- the AUC of the eye hint for telling the same crops from copies with dark glasses, or one dark patch, painted on;
- where faces with points are labelled with `glasses`, the AUC of the eye hint for them;
- where boxes are labelled `mask` and `no_mask`, the AUC of the mouth hint on the faces found there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
from steps import function_of
from workload import existing

from facemill.models.boxes import box_iou
from facemill.pipeline.config import load_config
from facemill.transforms.align import AlignFaces
from facemill.transforms.decode import DecodeImages
from facemill.transforms.detect import DetectFaces
from facemill.transforms.elements import Batch, Element
from facemill.transforms.judge import JudgeFaces
from facemill.transforms.landmarks import LocateLandmarks
from facemill.transforms.ops.canonical import canonical_crops, canonical_matrices
from facemill.transforms.ops.pose import estimate_pose, interocular_px
from facemill.transforms.ops.quality import QUALITY_COLUMNS, measure_face
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.verdict import JudgeOptions, judge_faces

PERCENTILES = (1, 10, 50, 90, 99)
EYE_HINT, MOUTH_HINT = QUALITY_COLUMNS.index("eye_occlusion"), QUALITY_COLUMNS.index("mouth_occlusion")
VERDICT = "verdict"
MIN_DEGRADED_PX = 30.0
MASK_SIDES_PX = (0, 30, 50)
EYES_XY = ((38, 54), (74, 54))  # of the canonical crop, a little below the pupils

Truth = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass
class Found:
    """The faces of a folder.

    Attributes:
        num_images: Pictures that could be read.
        seconds: CPU seconds of each step, and of pose and verdict within the judging.
        quality: (10,) of each face.
        crops: Canonical crops of large faces.
        masks: Of each face that a labelled box holds: the label, the box's shorter side, the mouth hint.
        glasses: Of the face nearest to labelled points: whether it wears glasses, the eye hint.
    """

    num_images: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    quality: list[np.ndarray] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)
    masks: list[tuple[str, float, float]] = field(default_factory=list)
    glasses: list[tuple[bool, float]] = field(default_factory=list)


def main() -> None:
    options = parse_arguments()
    cv2.setNumThreads(1)
    for folder in options.folders:
        found = look_at(folder, options.every)
        print(f"\n## {folder.name}: {found.num_images} pictures, {len(found.quality)} faces\n")
        tell_cost(found)
        tell_percentiles(found)
        crops = found.crops[:: max(1, len(found.crops) // options.faces)][: options.faces]
        if crops:
            tell_sharpness(crops)
            tell_eyes(crops)
        tell_glasses(found)
        tell_masks(found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=existing, metavar="FOLDER", help="has images/ and maybe gt.jsonl")
    parser.add_argument("--every", type=int, default=1, help="take only each Nth picture")
    parser.add_argument("--faces", type=int, default=150, help="to make worse copies of (default: %(default)s)")
    return parser.parse_args()


def look_at(folder: Path, every: int) -> Found:
    found, truth = Found(), read_truth(folder)
    steps = open_steps()
    for index, path in enumerate(sorted((folder / "images").iterdir())[::every]):
        record = ImageRecord(index, path.name, "", "", data=path.read_bytes())
        images = {}
        for name, step in steps.items():
            started_at = time.process_time()
            (record,) = flow(step, Batch("unit", (record,)))
            found.seconds[name] += time.process_time() - started_at
            images[name] = record.image
        if record.faces is not None and images["judge"] is not None:
            started_at = time.process_time()
            judge_again(record)
            found.seconds[VERDICT] += time.process_time() - started_at
            note(found, record, images["judge"], truth.get(path.name, ()))
    return found


def judge_again(record: ImageRecord) -> None:
    """Pose and verdict, as the judging step finds them beside the quality."""
    assert record.faces is not None
    points = record.faces.landmarks
    faces = replace(record.faces, angles_deg=estimate_pose(points), interocular_px=interocular_px(points))
    judge_faces(faces, image_wh=record.size_wh, options=JudgeOptions())


def read_truth(folder: Path) -> Truth:
    path = folder / "gt.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["image"]: line["faces"] or () for line in map(json.loads, lines)}


def open_steps() -> dict[str, beam.DoFn]:
    config = load_config()
    steps = {
        "decode": DecodeImages(config.decode, config.run.batch_pixels),
        "detect": DetectFaces(config.detect),
        "landmarks": LocateLandmarks(config.detect, False),
        "judge": JudgeFaces(config.judge),
        "align": AlignFaces(config.align, config.write),
    }
    return {name: function_of(step) for name, step in steps.items()}


def flow(step: beam.DoFn, element: Element) -> Iterator[ImageRecord]:
    for made in step.process(element):
        assert isinstance(made, Batch)
        yield from made.records


def note(found: Found, record: ImageRecord, image: np.ndarray, truth: Sequence[Mapping[str, Any]]) -> None:
    faces = record.faces
    assert faces is not None and faces.quality is not None and faces.interocular_px is not None
    found.num_images += 1
    found.quality += list(faces.quality)
    large = faces.landmarks[faces.interocular_px >= MIN_DEGRADED_PX]
    matrices = canonical_matrices(large, record.size_wh)
    found.crops += [crop for crop in canonical_crops(image, matrices) if crop is not None]
    for face in truth if len(faces) else ():
        if "glasses" in face and face.get("points5"):
            nearest = np.linalg.norm(faces.landmarks - np.array(face["points5"]), axis=(1, 2)).argmin()
            found.glasses.append((face["glasses"], float(faces.quality[nearest, EYE_HINT])))
    labelled = [face for face in truth if face.get("box") and face.get("label")]
    if labelled and len(faces):
        overlaps = box_iou(faces.boxes, np.array([face["box"] for face in labelled], np.float32))
        for row, overlap in zip(faces.quality, overlaps, strict=True):
            x1, y1, x2, y2 = labelled[overlap.argmax()]["box"]
            if overlap.max() >= 0.5:
                label, side_px = labelled[overlap.argmax()]["label"], min(x2 - x1, y2 - y1)
                found.masks.append((label, side_px, float(row[MOUTH_HINT])))


def tell_cost(found: Found) -> None:
    verdict = found.seconds.pop(VERDICT)
    quality_s = found.seconds["judge"] - verdict
    others_s = sum(found.seconds.values()) - quality_s
    others_ms, quality_ms = (1000 * seconds / found.num_images for seconds in (others_s, quality_s))
    share = f"{100 * quality_s / others_s:.1f} % more; {1000 * quality_s / len(found.quality):.2f} ms per face"
    print(f"CPU per picture: {others_ms:.1f} ms, and {quality_ms:.2f} ms for the quality, {share}\n")


def tell_percentiles(found: Found) -> None:
    print(table_row("column", *(f"{p} %" for p in PERCENTILES), "unknown") + "\n|" + " --- |" * (len(PERCENTILES) + 2))
    for name, values in zip(QUALITY_COLUMNS, np.array(found.quality).T, strict=True):
        cells = (f"{value:.3f}" for value in np.nanpercentile(values, PERCENTILES))
        print(table_row(name, *cells, f"{100 * np.isnan(values).mean():.1f} %"))


def tell_sharpness(crops: Sequence[np.ndarray]) -> None:
    print(f"\nsharpness of {len(crops)} faces and of worse copies:\n")
    print(table_row("copy", "falls", "AUC", "median") + "\n| --- | --- | --- | --- |")
    whole = [measure(crop, "sharpness") for crop in crops]
    for name, worsen, amounts in COPIES:
        before = whole
        for amount in amounts:
            after = [measure(worsen(crop, amount), "sharpness") for crop in crops]
            falls = np.mean(np.array(after) < np.array(before))
            print(
                table_row(
                    f"{name} {amount:g}", f"{100 * falls:.0f} %", f"{auc(whole, after):.3f}", f"{np.median(after):.2f}"
                )
            )
            before = after


def tell_eyes(crops: Sequence[np.ndarray]) -> None:
    free = [measure(crop, "eye_occlusion") for crop in crops]
    for name, eyes in (("dark glasses", EYES_XY), ("a patch on one eye", EYES_XY[:1])):
        hidden = [measure(hide_eyes(crop, eyes), "eye_occlusion") for crop in crops]
        print(f"\neye hint for {name}: AUC {auc(hidden, free):.3f}")


def tell_glasses(found: Found) -> None:
    hints = [[hint for wears_, hint in found.glasses if wears_ == wears and hint == hint] for wears in (True, False)]
    if all(hints):
        counts = f"{len(hints[0])} with, {len(hints[1])} without"
        print(f"\neye hint for labelled glasses, most of them clear ({counts}): AUC {auc(*hints):.3f}")


def tell_masks(found: Found) -> None:
    for side_px in MASK_SIDES_PX if found.masks else ():
        hints = {
            label: [hint for label_, side, hint in found.masks if label_ == label and side >= side_px and hint == hint]
            for label in ("mask", "no_mask")
        }
        counts = ", ".join(f"{len(values)} {label}" for label, values in hints.items())
        print(f"\nmouth hint, boxes from {side_px} px ({counts}): AUC {auc(hints['mask'], hints['no_mask']):.3f}")


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def measure(crop: np.ndarray, column: str) -> float:
    """A column of a face whose picture is its canonical crop."""
    row = measure_face(crop, np.eye(2, 3), np.array([0, 0, 111, 111]), (112, 112))
    return row[QUALITY_COLUMNS.index(column)]


def auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Share of the pairs of which the first is higher, ties counting half."""
    difference = np.array(higher)[:, None] - np.array(lower)[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def blurred(crop: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(crop, (0, 0), sigma_px)


def enlarged(crop: np.ndarray, factor: float) -> np.ndarray:
    """As the crop of a face that has only that share of the pixels."""
    size_wh = [round(side * factor) for side in crop.shape[1::-1]]
    small = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def noisy(crop: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, crop.shape)
    return np.clip(crop + noise, 0, 255).astype(np.uint8)


def compressed(crop: np.ndarray, quality: float) -> np.ndarray:
    encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def hide_eyes(crop: np.ndarray, eyes_xy: Sequence[tuple[int, int]]) -> np.ndarray:
    """Dark lenses of 30 x 21 px, through which a tenth of the light comes."""
    cover = np.zeros(crop.shape[:2], np.float32)
    for eye in eyes_xy:
        cv2.ellipse(cover, (eye, (30, 21), 0), 0.9, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), 1)[..., None]
    return (crop * (1 - cover) + 25 * cover).astype(np.uint8)


COPIES: tuple[tuple[str, Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]], ...] = (
    ("blurred by sigma, px:", blurred, (0.5, 1, 1.5, 2, 3)),
    ("enlarged from a share of the side:", enlarged, (0.7, 0.5, 0.35, 0.25)),
    ("noise of sigma:", noisy, (5, 10, 20, 40)),
    ("JPEG of quality:", compressed, (50, 30, 20, 10, 5)),
)


if __name__ == "__main__":
    main()
