"""The canonical crop, in which every face is measured whatever template a run cuts its crops with, and its regions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from facemill.transforms.ops.alignment import CropError, crop_matrix
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


def canonical_matrices(landmarks: np.ndarray, image_wh: tuple[int, int]) -> list[np.ndarray | None]:
    """From the picture to the crop of each face: (N, 5, 2) px -> N of (2, 3).

    None where the landmarks determine no crop, or one that shows nothing of the picture.
    """
    return [_matrix(points, image_wh) for points in landmarks]


def _matrix(points: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray | None:
    try:
        return crop_matrix(_TEMPLATE, _NO_BOX, points, image_wh)
    except CropError:
        return None


def canonical_crops(image: np.ndarray, matrices: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
    """One crop after the other: (H, W, 3) uint8 RGB and matrices from it -> (112, 112, 3) uint8.

    Beyond the picture its nearest pixel is repeated. Quality is not measured there, and a perceptual hash comes nearer
    to that of the whole face than with black.
    """
    for matrix in matrices:
        yield None if matrix is None else warp_affine(image, matrix, _TEMPLATE.size_wh, border="replicate")


def inside_picture(matrix: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray | None:
    """Which pixels of a crop lie in the picture: its matrix -> (112, 112) bool, None where all do."""
    to_picture = np.linalg.inv(matrix[:, :2])
    x0, y0 = -to_picture @ matrix[:, 2]
    (xx, xy), (yx, yy) = to_picture
    right, bottom = image_wh[0] - 0.5, image_wh[1] - 0.5
    corners = [(0, 0), (_WIDTH - 1, 0), (0, _HEIGHT - 1), (_WIDTH - 1, _HEIGHT - 1)]
    if all(
        -0.5 <= xx * column + xy * row + x0 <= right and -0.5 <= yx * column + yy * row + y0 <= bottom
        for column, row in corners
    ):
        return None
    x, y = xx * _COLUMNS + xy * _ROWS + x0, yx * _COLUMNS + yy * _ROWS + y0
    return (x >= -0.5) & (x <= right) & (y >= -0.5) & (y <= bottom)


def values_in(channel: np.ndarray, region: Region | np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """What of a region lies in the picture: (h, w) -> (M,), or (0,) where that is less than half.

    Args:
        channel: Something measured in the canonical crop, or in a part of it.
        region: Rows and columns, or (h, w) bool.
        inside: As `inside_picture` gives it, (h, w).
    """
    values = channel[region].ravel()
    if inside is None:
        return values
    is_inside = inside[region].ravel()
    return values[is_inside if 2 * np.count_nonzero(is_inside) >= len(is_inside) else slice(0)]
