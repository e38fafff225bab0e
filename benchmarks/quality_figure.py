"""The figure of docs/quality.md: two portraits in the public domain and worse copies of them, with their measures.

python benchmarks/quality_figure.py docs/quality.png
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import skimage
from PIL import Image
from quality import EYES_XY, blurred, enlarged, hide_eyes, measure, noisy

from facemill.models import FaceDetector
from facemill.transforms.ops.canonical import canonical_crops, canonical_matrices
from facemill.transforms.ops.drawing import contact_sheet

# Eileen Collins (NASA) and Grace Hopper (US Navy).
PORTRAITS = (
    Path(skimage.__file__).parent / "data" / "astronaut.png",
    Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
)


def scaled(crop: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(crop * factor, 0, 255).astype(np.uint8)


def shaded(crop: np.ndarray) -> np.ndarray:
    """Lit from one side."""
    return (crop * np.linspace(1, 0.3, crop.shape[1])[None, :, None]).astype(np.uint8)


def masked(crop: np.ndarray) -> np.ndarray:
    copy = crop.copy()
    copy[74:, 18:94] = (190, 215, 225)
    return copy


COPIES: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("sharpness", lambda crop: crop),
    ("sharpness", lambda crop: enlarged(crop, 0.25)),
    ("sharpness", lambda crop: blurred(crop, 1.5)),
    ("sharpness", lambda crop: noisy(crop, 25)),
    ("luminance_mean", lambda crop: crop),
    ("luminance_mean", lambda crop: scaled(crop, 0.45)),
    ("luminance_mean", lambda crop: scaled(crop, 1.6)),
    ("illumination_uniformity", lambda crop: crop),
    ("illumination_uniformity", shaded),
    ("eye_occlusion", lambda crop: hide_eyes(crop, EYES_XY)),
    ("mouth_occlusion", masked),
)
SHORT = {"luminance_mean": "lum. mean", "illumination_uniformity": "uniformity"}


def main() -> None:
    detector = FaceDetector(min_face_size_px=60)
    crops, captions = [], []
    for path in PORTRAITS:
        image = np.asarray(Image.open(path).convert("RGB"))
        matrices = canonical_matrices(detector.detect(image)[0].landmarks[None], (image.shape[1], image.shape[0]))
        (crop,) = canonical_crops(image, matrices)
        assert crop is not None
        for column, worsen in COPIES:
            crops.append(worsen(crop))
            captions.append(
                f"{SHORT.get(column, column.replace('_occlusion', ' hint'))} {measure(crops[-1], column):.2f}"
            )
    Image.fromarray(contact_sheet(crops, columns=len(COPIES), captions=captions)).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
