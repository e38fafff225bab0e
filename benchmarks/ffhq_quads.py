"""FFHQ's square from the cascade's five landmarks beside that from people's 68 points.

    python benchmarks/ffhq_quads.py FOLDER

FOLDER holds `images/` and `gt.jsonl`, a line of JSON per picture: `image`, and `faces` with `points68` in iBUG's
order, px. The script of FFHQ takes the mean of the six points around each eye and the two corners of the mouth.
Printed are how far the squares' centres are apart, how much their sizes differ, and the angle between them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from workload import existing

from facemill.models import FaceDetector
from facemill.transforms.ops.alignment import crop_matrix, transform_points
from facemill.transforms.ops.templates import get_template

_TEMPLATE = get_template("ffhq256")
_SIDE_PX = 256
_NO_BOX = np.full(4, np.nan)


def main() -> None:
    """Detect, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing)
    folder = parser.parse_args().folder
    detector = FaceDetector()
    differences, num_faces = [], 0
    lines = (folder / "gt.jsonl").read_text(encoding="utf-8").splitlines()
    for path, truth in tqdm(_faces(folder, lines), total=len(lines)):
        num_faces += 1
        image = np.asarray(Image.open(path).convert("RGB"))
        landmarks = _nearest(detector, image, truth)
        if landmarks is not None:
            image_wh = (image.shape[1], image.shape[0])
            differences.append(_difference(_five_of_68(truth), landmarks, image_wh))
    _report(np.array(differences), num_faces)


def _faces(folder: Path, lines: list[str]) -> Iterator[tuple[Path, np.ndarray]]:
    for line in lines:
        row = json.loads(line)
        for face in row["faces"]:
            yield folder / "images" / row["image"], np.array(face["points68"])


def _five_of_68(points: np.ndarray) -> np.ndarray:
    """Middles of the eyes, tip of the nose, corners of the mouth: (68, 2) -> (5, 2); FFHQ needs all but the nose."""
    return np.array([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])


def _nearest(detector: FaceDetector, image: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """The landmarks of the face that is meant: its centre lies within the extent of the true points."""
    low, high = truth.min(axis=0), truth.max(axis=0)
    middle = (low + high) / 2
    faces = [
        face
        for face in detector.detect(image)
        if np.all((face.landmarks.mean(axis=0) > low) & (face.landmarks.mean(axis=0) < high))
    ]
    return min(
        (f.landmarks for f in faces),
        key=lambda points: float(np.linalg.norm(points.mean(axis=0) - middle)),
        default=None,
    )


def _difference(truth: np.ndarray, found: np.ndarray, image_wh: tuple[int, int]) -> tuple[float, float, float, float]:
    """Shift to the right and down in sides of the true square, ratio of the sizes, and angle in degrees."""
    true, other = (crop_matrix(_TEMPLATE, _NO_BOX, points, image_wh) for points in (truth, found))
    # Where the found square's centre and its right edge lie in the true one.
    middle = (_SIDE_PX - 1) / 2
    inverse = np.linalg.inv(np.vstack([other, [0, 0, 1]]))[:2]
    center, right = transform_points(
        true, transform_points(inverse, np.array([[middle, middle], [_SIDE_PX - 0.5, middle]]))
    )
    across = (right - center) @ (1, 1j) * 2 / _SIDE_PX
    shift = (center - middle) / _SIDE_PX
    return float(shift[0]), float(shift[1]), abs(across), float(np.degrees(np.angle(across)))


def _report(differences: np.ndarray, num_faces: int) -> None:
    right, down, ratio, angle_deg = differences.T
    figures = {
        "shift of the centre, % of the side": 100 * np.hypot(right, down),
        "difference in size, %": 100 * np.abs(ratio - 1),
        "angle, degrees": np.abs(angle_deg),
    }
    sys.stdout.write(f"{len(differences)} of {num_faces} faces found\n")
    for name, values in figures.items():
        sys.stdout.write(f"{name:<36}median {np.median(values):5.2f}   p95 {np.percentile(values, 95):5.2f}\n")
    sys.stdout.write(
        f"in the median: {100 * np.median(right):+.2f} % to the right, {100 * np.median(down):+.2f} % down, "
        f"{np.median(ratio):.3f} times as large, turned {np.median(angle_deg):+.2f} degrees clockwise\n"
    )


if __name__ == "__main__":
    main()
