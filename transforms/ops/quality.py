"""How good a face's picture is: a row of numbers for each face, named after ISO/IEC 29794-5 where they match it.

All but `crop_out` are measured in the canonical crop of 112 x 112. ISO/IEC 29794-5 takes a face of 616 x 616 and the
hull of 98 landmarks. Five points give neither, so the numbers are comparable among themselves, and near to those of
OFIQ, the standard's reference implementation, but not the same.
"""

from __future__ import annotations

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


def measure_face(
    crop: np.ndarray | None, matrix: np.ndarray | None, box: np.ndarray, image_wh: tuple[int, int]
) -> tuple[float, ...]:
    """The QUALITY_COLUMNS of a face.

    What lies outside of the picture counts nowhere. What cannot be measured is NaN: all but `crop_out` where there is
    no crop, and each measure whose region lies by more than half outside of the picture.

    Args:
        crop: The canonical crop, (112, 112, 3) uint8 RGB, or None where there is none.
        matrix: From the original to the crop.
        box: (4,) px of the original.
        image_wh: px of the original.
    """
    outside = crop_out(box, image_wh)
    if crop is None or matrix is None:
        return tuple(outside if name == "crop_out" else np.nan for name in QUALITY_COLUMNS)
    inside = inside_picture(matrix, image_wh)
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


def crop_out(box: np.ndarray, image_wh: tuple[int, int]) -> float:
    """The share of a box's area that lies outside of the picture: (4,) px -> [0, 1].

    It stands for the crop of the face image of ISO/IEC 29794-5, which is how many eye distances lie between the eyes
    and each side of the picture. NaN for a box without an area.
    """
    x1, y1, x2, y2 = map(float, box)
    area = max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
    if not area > 0:
        return np.nan
    seen_width = min(x2, image_wh[0] - 0.5) - max(x1, -0.5)
    seen_height = min(y2, image_wh[1] - 0.5) - max(y1, -0.5)
    return min(max(1 - max(seen_width, 0.0) * max(seen_height, 0.0) / area, 0.0), 1.0)
