"""The canonical crop, in which every face is measured whatever template a run cuts its crops with, and its regions."""

from __future__ import annotations

import numpy as np

from facemill.transforms.ops.alignment import CropError, crop_matrix
from facemill.transforms.ops.cutting import largest_scale
from facemill.transforms.ops.templates import get_template
from facemill.transforms.ops.warping import warp_affine

CANONICAL_TEMPLATE = "arcface112"

Region = tuple[slice, slice]  # rows and columns

_TEMPLATE = get_template(CANONICAL_TEMPLATE)
_WIDTH, _HEIGHT = _TEMPLATE.size_wh
_NO_BOX = np.full(4, np.nan)  # the template goes by the landmarks
_COLUMNS, _ROWS = np.meshgrid(np.arange(_WIDTH), np.arange(_HEIGHT))
# From the brows to the chin, a little within the mean hull of jaw and brows of frontal faces.
OVAL = ((_COLUMNS - 56) / 36) ** 2 + ((_ROWS - 74) / 40) ** 2 <= 1


def canonical_scale(landmarks: np.ndarray, image_wh: tuple[int, int]) -> float:
    """How many times larger than in the picture the crop shows the smallest face: (N, 5, 2) px -> 0 without any."""
    matrices = [canonical_matrix(points, image_wh) for points in landmarks]
    return largest_scale([None if matrix is None else (matrix,) for matrix in matrices])


def canonical_matrix(points: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray | None:
    """From the picture to the crop: (5, 2) px -> (2, 3), or None where the crop would show nothing of the picture."""
    try:
        return crop_matrix(_TEMPLATE, _NO_BOX, points, image_wh)
    except CropError:
        return None


def canonical_crops(image: np.ndarray, landmarks: np.ndarray) -> list[np.ndarray | None]:
    """The crop in which each face is measured: (H, W, 3) uint8 RGB and (N, 5, 2) px of it -> N of (112, 112, 3) uint8.

    None where the landmarks determine no crop. What lies outside of the picture is black.
    """
    matrices = [canonical_matrix(points, (image.shape[1], image.shape[0])) for points in landmarks]
    return [None if matrix is None else warp_affine(image, matrix, _TEMPLATE.size_wh) for matrix in matrices]


def inside_picture(points: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray | None:
    """Which pixels of a face's canonical crop lie in the picture: (5, 2) px -> (112, 112) bool, None where all do."""
    matrix = canonical_matrix(points, image_wh)
    assert matrix is not None, "a face without a canonical crop"
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    x_of, y_of = inverse[:2]
    low, high = -0.5, np.array(image_wh) - 0.5
    corners = inverse[:2] @ [[0, _WIDTH - 1, 0, _WIDTH - 1], [0, 0, _HEIGHT - 1, _HEIGHT - 1], [1, 1, 1, 1]]
    if np.all((corners >= low) & (corners <= high[:, None])):
        return None
    x = x_of[0] * _COLUMNS + x_of[1] * _ROWS + x_of[2]
    y = y_of[0] * _COLUMNS + y_of[1] * _ROWS + y_of[2]
    return (x >= low) & (x <= high[0]) & (y >= low) & (y <= high[1])


def values_in(channel: np.ndarray, region: Region | np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """What of a region lies in the picture: (112, 112[, C]) -> (M[, C]), or (0[, C]) where that is less than half.

    Args:
        channel: The canonical crop or something of its size.
        region: Rows and columns, or (112, 112) bool.
        inside: As `inside_picture` gives it.
    """
    values = channel[region].reshape(-1, *channel.shape[2:])
    if inside is None:
        return values
    is_inside = inside[region].ravel()
    return values[is_inside if 2 * np.count_nonzero(is_inside) >= len(is_inside) else slice(0)]
