"""The five landmarks of a face that fills a crop, of whatever template."""

from __future__ import annotations

import cv2
import numpy as np

from facemill.models.cascade import Cascade
from facemill.models.pyramid import ImagePyramid

# The crop's longer side as the cascade sees it: O-Net looks at 48 px, and even in a wide crop the face has that.
_SIDE_PX = 160
# On each side, as faces in tight crops reach to the edge. Mirrored: of black, white and the edge's own colour none let
# the points of our own crops come out nearer to where they had been put.
_MARGIN_PX = 40


def locate_crop_points(cascade: Cascade, crop: np.ndarray) -> np.ndarray | None:
    """The landmarks of the face in the middle: (H, W, 3) uint8 -> (5, 2) px of the crop, or None where there is none.

    Of several faces it is the one that is largest and most central.
    """
    scale = _SIDE_PX / max(crop.shape[:2])
    size_wh = (max(round(crop.shape[1] * scale), 1), max(round(crop.shape[0] * scale), 1))
    resized = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    padded = np.asarray(cv2.copyMakeBorder(resized, *(_MARGIN_PX,) * 4, cv2.BORDER_REFLECT), dtype=np.uint8)
    pyramid = ImagePyramid(padded)
    found = cascade.refine(pyramid, cascade.propose(pyramid).boxes)
    if not len(found.boxes):
        return None
    middle = (np.array(size_wh) - 1) / 2 + _MARGIN_PX
    offsets = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - middle
    areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    best = np.argmax(areas - 2 * np.square(offsets).sum(axis=1))
    scale_xy = np.array(size_wh) / crop.shape[1::-1]
    points: np.ndarray = (found.landmarks[best] - _MARGIN_PX + 0.5) / scale_xy - 0.5
    return points
