"""Looks at the crops of a run: finds the faces in them again, and says how far their points are from the template's.

python benchmarks/crops.py OUT --count 100 --sheet sheet.png
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from facemill.models import FaceDetector
from facemill.transforms.ops.drawing import contact_sheet
from facemill.transforms.ops.templates import get_template

_MARGIN_PX = 28  # the detector wants some surroundings


def main() -> None:
    """Print the distances, and write a contact sheet of the crops that were looked at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template", default="arcface112")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    crops = read_crops(options.output, options.count, options.seed)
    template = get_template(options.template).points
    detector = FaceDetector(min_face_size_px=40)
    distances = [d for crop in crops if (d := distance_px(detector, crop, template)) is not None]
    print(f"{len(crops)} crops, {len(distances)} faces found again")
    print(f"distance to the template: mean {np.mean(distances):.2f} px, median {np.median(distances):.2f} px")
    if options.sheet:
        Image.fromarray(contact_sheet(crops, columns=10)).save(options.sheet)


def read_crops(output: Path, count: int, seed: int) -> list[np.ndarray]:
    """`count` crops, drawn evenly from all tar shards."""
    members = []
    for path in sorted((output / "crops").glob("*.tar")):
        with tarfile.open(path) as tar:
            members += [(path, member.name) for member in tar]
    crops = []
    for path, name in sorted(random.Random(seed).sample(members, min(count, len(members)))):
        with tarfile.open(path) as tar:
            file = tar.extractfile(name)
            assert file is not None
            crops.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
    return crops


def distance_px(detector: FaceDetector, crop: np.ndarray, template: np.ndarray) -> float | None:
    """Mean distance of the face's points, found anew, to the template's; None where no face is found."""
    padded = np.pad(crop, ((_MARGIN_PX, _MARGIN_PX), (_MARGIN_PX, _MARGIN_PX), (0, 0)), mode="reflect")
    means = [np.linalg.norm(face.landmarks - _MARGIN_PX - template, axis=1).mean() for face in detector.detect(padded)]
    return float(min(means)) if means else None


if __name__ == "__main__":
    main()
