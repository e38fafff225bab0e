"""Milliseconds that a crop costs in each template: cutting it and encoding it as JPEG, on one thread.

    python benchmarks/template_cost.py [--side PX ...]

The astronaut of scikit-image, enlarged to each side, with a face as wide as a sixth of it. Beside it what OpenCV alone
takes to warp, without the means that keep shrunk crops from aliasing, and to encode.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

from facemill.models import FaceDetector
from facemill.transforms.ops.alignment import crop_matrix
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.templates import TEMPLATE_NAMES, get_template
from facemill.transforms.ops.warping import warp_affine

_SIDES_PX = (512, 1500, 4000)
_ROUNDS = 7
_ROUND_S = 0.05


def main() -> None:
    """Measure and print a table per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs="+", default=_SIDES_PX, help="px (default: %(default)s)")
    sides = parser.parse_args().side
    cv2.setNumThreads(1)
    photo = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    for side in sides:
        _measure(np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC)))


def _measure(image: np.ndarray) -> None:
    face = FaceDetector(min_face_size_px=image.shape[0] / 8).detect(image)[0]
    width = face.bbox[2] - face.bbox[0]
    sys.stdout.write(f"{image.shape[1]}x{image.shape[0]}, a face of {width:.0f} px\n")
    sys.stdout.write(
        f"  {'template':<20}{'scale':>7}{'cut':>8}{'encode':>8}{'sum':>8}{'OpenCV: warp':>14}{'encode':>8}  ms\n"
    )
    total = 0.0
    for name in TEMPLATE_NAMES:
        template = get_template(name)
        matrix = crop_matrix(template, face.bbox, face.landmarks, (image.shape[1], image.shape[0]))
        crop = warp_affine(image, matrix, template.size_wh)
        cut_ms = _milliseconds(lambda m=matrix, t=template: warp_affine(image, m, t.size_wh))
        encode_ms = _milliseconds(lambda c=crop: encode_crop(c, WriteOptions()))
        warp_ms = _milliseconds(lambda m=matrix, t=template: cv2.warpAffine(image, m, t.size_wh))
        opencv_ms = _milliseconds(
            lambda c=crop: cv2.imencode(".jpg", c[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, WriteOptions().jpeg_quality])
        )
        total += cut_ms + encode_ms
        scale = float(np.hypot(*matrix[:, 0]))
        sys.stdout.write(
            f"  {name:<20}{scale:>7.2f}{cut_ms:>8.2f}{encode_ms:>8.2f}{cut_ms + encode_ms:>8.2f}{warp_ms:>14.2f}"
            f"{opencv_ms:>8.2f}\n"
        )
    sys.stdout.write(f"  all of them {total:.1f} ms a face\n")


def _milliseconds(step: Callable[[], object]) -> float:
    """CPU time of one call, the least of several rounds."""
    step()
    least = float("inf")
    for _ in range(_ROUNDS):
        count, start = 0, time.process_time()
        while time.process_time() - start < _ROUND_S:
            step()
            count += 1
        least = min(least, (time.process_time() - start) / count)
    return 1000 * least


if __name__ == "__main__":
    main()
