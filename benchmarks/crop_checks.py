"""What `facemill check-crops` says of crops that were made with known templates, and of such that were changed since.

    python benchmarks/crop_checks.py FOLDER [--count N] [--truth gt.jsonl]

FOLDER is one of photographs. Crops are cut of the largest face of each of N, drawn with a seed, in every template;
then some are stretched, padded, shifted, turned and cut further. Each line has what was made, and what it is taken for.
With `--truth`, lines of JSON with `image` and, in `faces`, `points5`, also crops in arcface112 by these landmarks.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm
from workload import existing

from facemill.models import FaceDetector
from facemill.models.errors import BadInputError
from facemill.models.options import DetectorOptions
from facemill.pipeline.check_crops import CropSample, explain, match
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.sampling import sample_images
from facemill.transforms.ops.alignment import AlignOptions, CropError, crop_matrix
from facemill.transforms.ops.crop_points import locate_crop_points
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.templates import TEMPLATE_NAMES, get_template
from facemill.transforms.ops.warping import warp_affine

Change = Callable[[np.ndarray], np.ndarray]
_CHANGED: tuple[tuple[str, str, Change], ...] = (
    ("stretched to 112x112", "sphereface96x112", lambda crop: cv2.resize(crop, (112, 112))),
    ("padded to 112x112, which is arcface112", "sphereface96x112", lambda crop: np.pad(crop, ((0, 0), (8, 8), (0, 0)))),
    ("cut to 96x112, which is sphereface96x112", "arcface112", lambda crop: crop[:, 8:-8]),
    ("twice as large", "arcface112", lambda crop: cv2.resize(crop, (224, 224))),
    ("6 px to the right, 3 px down", "arcface112", lambda crop: np.roll(crop, (3, 6), (0, 1))),
    ("turned 10 degrees anticlockwise", "arcface112", lambda crop: _turned(crop, 10)),
    ("1.24 times as large", "arcface112", lambda crop: crop[11:101, 11:101]),
)


def main() -> None:
    """Cut, change, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--truth", type=existing)
    arguments = parser.parse_args()
    faces = list(_faces(arguments.folder, arguments.count))
    sys.stdout.write(f"{len(faces)} faces\n")
    if arguments.truth:
        by_people = list(_true_faces(arguments.folder, arguments.truth, arguments.count))
        sys.stdout.write(f"arcface112 by people's landmarks -> {_check(by_people, 'arcface112', _as_it_is)}\n")
    unchanged = [("", name, _as_it_is) for name in TEMPLATE_NAMES]
    for change, name, apply in tqdm([*unchanged, *_CHANGED]):
        sys.stdout.write(f"{f'{name}, {change}'.rstrip(', '):<60} -> {_check(faces, name, apply)}\n")


def _as_it_is(crop: np.ndarray) -> np.ndarray:
    return crop


def _true_faces(folder: Path, truth: Path, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rows = [json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines()]
    for row in random.Random(0).sample(rows, count):
        image = np.asarray(Image.open(folder / row["image"]).convert("RGB"))
        yield image, np.full(4, np.nan), np.array(row["faces"][0]["points5"])


def _faces(folder: Path, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, box and landmarks of the largest face of each photograph."""
    detector, limits = FaceDetector(min_face_size_px=40), DecodeOptions()
    for record in sample_images(list_inputs(str(folder), ignored_extensions=()), count, seed=0):
        try:
            image = decode_image(record.data or b"", max_pixels=limits.max_pixels, min_side_px=limits.min_side_px)
        except BadInputError:
            continue
        faces = sorted(detector.detect(image), key=lambda face: float(face.bbox[0] - face.bbox[2]))
        if faces:
            yield image, faces[0].bbox, faces[0].landmarks


def _check(faces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], name: str, change: Change) -> str:
    cascade, template, sample = load_cascade(DetectorOptions(min_face_size_px=40)), get_template(name), CropSample()
    for image, box, landmarks in faces:
        try:
            matrix = crop_matrix(template, box, landmarks, (image.shape[1], image.shape[0]))
        except CropError:
            continue
        crop = np.ascontiguousarray(change(warp_affine(image, matrix, template.size_wh)))
        size_wh = (crop.shape[1], crop.shape[0])
        sample.sizes[size_wh] += 1
        points = locate_crop_points(cascade, crop)
        if points is not None:
            sample.points.setdefault(size_wh, []).append(points)
    matches = match(sample, AlignOptions(template=TEMPLATE_NAMES))
    return f"{explain(sample, matches)} (distance {100 * matches[0].distance:.1f} %)"


def _turned(crop: np.ndarray, angle_deg: float) -> np.ndarray:
    height, width = crop.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1)
    return cv2.warpAffine(crop, turn, (width, height))


if __name__ == "__main__":
    main()
