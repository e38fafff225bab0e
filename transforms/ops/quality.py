"""How good a face's picture is: a row of numbers for each face, named after ISO/IEC 29794-5 where they match it.

All but `crop_out` are measured in the canonical crop of 112 x 112. ISO/IEC 29794-5 takes a face of 616 x 616 and the
hull of 98 landmarks. Five points give neither, so the numbers are comparable among themselves, and near to those of
OFIQ, the standard's reference implementation, but not the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from facemill.transforms.ops.canonical import inside_picture
from facemill.transforms.ops.luminance import (
    LUMINANCE_COLUMNS,
    illumination_uniformity,
    luminance_of,
    measure_luminance,
)
from facemill.transforms.ops.occlusion import eye_occlusion, mouth_occlusion
from facemill.transforms.ops.sharpness import measure_sharpness

QUALITY_COLUMNS = (
    "sharpness",
    *LUMINANCE_COLUMNS,
    "illumination_uniformity",
    "crop_out",
    "eye_occlusion",
    "mouth_occlusion",
)


def measure_quality(
    crops: Sequence[np.ndarray | None], boxes: np.ndarray, landmarks: np.ndarray, *, image_wh: tuple[int, int]
) -> np.ndarray:
    """The QUALITY_COLUMNS of each face: N canonical crops, (N, 4) and (N, 5, 2) px of the original -> (N, 10) float32.

    What lies outside of the picture counts nowhere. What cannot be measured is NaN: all but `crop_out` where there is
    no crop, and each measure whose region lies by more than half outside of the picture.
    """
    quality = np.full((len(crops), len(QUALITY_COLUMNS)), np.nan, dtype=np.float32)
    for row, crop, points, outside in zip(quality, crops, landmarks, crop_out(boxes, image_wh), strict=True):
        row[QUALITY_COLUMNS.index("crop_out")] = outside
        if crop is not None:
            row[:] = _measure_face(crop, inside_picture(points, image_wh), outside)
    return quality


def _measure_face(crop: np.ndarray, inside: np.ndarray | None, outside: float) -> tuple[float, ...]:
    luma, redness, _ = cv2.split(cv2.cvtColor(crop, cv2.COLOR_RGB2YCrCb))
    luminance = luminance_of(crop)
    return (
        measure_sharpness(luma, inside),
        *measure_luminance(luminance, inside),
        illumination_uniformity(luminance, inside),
        outside,
        eye_occlusion(luma, inside),
        mouth_occlusion(redness, inside),
    )


def crop_out(boxes: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray:
    """The share of each box's area that lies outside of the picture: (N, 4) px -> (N,) float64 in [0, 1].

    It stands for the crop of the face image of ISO/IEC 29794-5, which is how many eye distances lie between the eyes
    and each side of the picture. NaN for a box without an area.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
        seen = np.minimum(boxes[:, 2:], np.array(image_wh) - 0.5) - np.maximum(boxes[:, :2], -0.5)
        share = 1 - np.prod(np.maximum(seen, 0), axis=1) / area
    return np.where(np.isfinite(share), np.clip(share, 0, 1), np.nan)
