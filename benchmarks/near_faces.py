"""What the perceptual hash tells apart, on folders of pictures of people.

    python benchmarks/near_faces.py FOLDER... [--every N]

A picture is of the person after whom its file is called, less the number at its end: of `Anna_Nas_0002.jpg` that is
Anna_Nas. The face nearest to the middle of each is found and hashed. Every N-th picture is changed in several ways, the
face found anew, and both hashes are compared; 0 changes none. Printed are, for several near distances:

- how many changed pictures are found, for each change;
- how many pairs of different people are within a distance, and the files of the nearest.
"""

from __future__ import annotations

import argparse
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm
from workload import existing

from facemill.models import FaceDetector
from facemill.models.errors import BadInputError
from facemill.transforms.ops.canonical import canonical_crops, canonical_matrices
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.members import is_ignored
from facemill.transforms.ops.perceptual_hash import perceptual_hash

DISTANCES = (16, 24, 32, 40, 48, 56)
STRANGERS_DISTANCES = (32, 40, 48, 56, 60, 64, 68, 72, 76)
NUM_NEAREST, NEAREST_DISTANCE = 20, 64
MIN_SIDE_PX, MAX_PIXELS = 16, 10**8


def jpeg(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return change


def resize(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        size_wh = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.LANCZOS))

    return change


def turn(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        size_wh = (image.shape[1], image.shape[0])
        matrix = cv2.getRotationMatrix2D((size_wh[0] / 2, size_wh[1] / 2), degrees, 1)
        return cv2.warpAffine(image, matrix, size_wh, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    return change


def light(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: np.clip(change(image.astype(np.float64)), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 70": jpeg(70),
    "JPEG, quality 50": jpeg(50),
    "JPEG, quality 30": jpeg(30),
    "half the size": resize(0.5),
    "0.7 of the size": resize(0.7),
    "twice the size": resize(2),
    "half the size, JPEG 50": lambda image: jpeg(50)(resize(0.5)(image)),
    "blurred by 1 px": lambda image: cv2.GaussianBlur(image, (0, 0), 1),
    "brighter by 40": light(lambda image: image + 40),
    "0.6 of the brightness": light(lambda image: image * 0.6),
    "gamma 0.6": light(lambda image: 255 * (image / 255) ** 0.6),
    "1.4 of the contrast": light(lambda image: (image - 128) * 1.4 + 128),
    "red up, blue down": light(lambda image: image * [1.15, 1, 0.85]),
    "grey": light(lambda image: np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)),
    "turned by 3 degrees": turn(3),
    "cut left and above": lambda image: np.ascontiguousarray(image[image.shape[0] // 13 :, image.shape[1] // 11 :]),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


def main() -> None:
    """Look at the folders, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=existing, metavar="FOLDER")
    parser.add_argument("--every", type=int, default=4, metavar="N", help="change every N-th (default: %(default)s)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detector = FaceDetector(min_face_size_px=20)
    paths = [
        p for folder in options.folders for p in sorted(folder.rglob("*")) if p.is_file() and not is_ignored(p.name)
    ]
    found: dict[Path, np.ndarray] = {}
    changed: dict[str, list[int]] = defaultdict(list)
    for number, path in enumerate(tqdm(paths, disable=None)):
        image = read(path)
        bits = None if image is None else bits_of_face(detector, image)
        if image is None or bits is None:
            continue
        found[path] = bits
        if options.every and number % options.every == 0:
            for change, distance in distances_of_changes(detector, image, bits):
                changed[change].append(distance)
    report_changes(changed)
    report_strangers(list(found), np.array(list(found.values())))


def read(path: Path) -> np.ndarray | None:
    try:
        return decode_image(path.read_bytes(), max_pixels=MAX_PIXELS, min_side_px=MIN_SIDE_PX)
    except BadInputError:
        return None


def bits_of_face(detector: FaceDetector, image: np.ndarray) -> np.ndarray | None:
    """The hash of the face nearest to the middle: (256,) bool."""
    faces = detector.detect(image)
    if not faces:
        return None
    image_wh = (image.shape[1], image.shape[0])
    middle = np.array(image_wh) / 2
    face = min(faces, key=lambda face: float(np.linalg.norm((face.bbox[:2] + face.bbox[2:]) / 2 - middle)))
    (crop,) = canonical_crops(image, canonical_matrices(face.landmarks[None], image_wh))
    if crop is None:
        return None
    return np.unpackbits(np.frombuffer(bytes.fromhex(perceptual_hash(crop)), np.uint8)).astype(bool)


def distances_of_changes(detector: FaceDetector, image: np.ndarray, bits: np.ndarray) -> Iterator[tuple[str, int]]:
    for name, change in CHANGES.items():
        again = bits_of_face(detector, change(image))
        if again is not None:
            yield name, int((again != bits).sum())


def report_changes(changed: dict[str, list[int]]) -> None:
    print(f"{'change':<24}{'pictures':>9}{'median':>8}" + "".join(f"{f'<= {limit}':>8}" for limit in DISTANCES))
    for name, distances in changed.items():
        shares = "".join(f"{np.mean(np.array(distances) <= limit):8.1%}" for limit in DISTANCES)
        print(f"{name:<24}{len(distances):>9,}{np.median(distances):>8.0f}{shares}")


def report_strangers(paths: list[Path], bits: np.ndarray) -> None:
    people = np.unique([re.sub(r"_?\d+$", "", path.stem) for path in paths], return_inverse=True)[1]
    counts = np.zeros(bits.shape[1] + 1, np.int64)
    nearest: list[tuple[int, str, str]] = []
    for row in range(1, len(paths)):
        others = np.flatnonzero(people[:row] != people[row])
        distances = (bits[others] != bits[row]).sum(axis=1)
        counts += np.bincount(distances, minlength=len(counts))
        near = distances <= NEAREST_DISTANCE
        pairs = zip(distances[near].tolist(), others[near].tolist(), strict=True)
        nearest += [(distance, str(paths[other]), str(paths[row])) for distance, other in pairs]
    within = np.cumsum(counts)
    print(
        f"\n{len(paths):,} faces, {len(np.unique(people)):,} people; of {within[-1]:,} pairs of different people within"
    )
    print("  ".join(f"{limit}: {within[limit]:,}" for limit in STRANGERS_DISTANCES))
    for distance, a, b in sorted(nearest)[:NUM_NEAREST]:
        print(f"{distance:>4} {a} {b}")


if __name__ == "__main__":
    main()
