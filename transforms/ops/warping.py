"""Cutting crops along affine matrices, without aliasing.

Coordinates are pixels, integer coordinates being pixel centres. Matrices are (2, 3), as `cv2.warpAffine` takes them:
they lead from the picture to the crop.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import cv2
import numpy as np

Border = Literal["black", "white", "replicate", "reflect"]
BORDERS: tuple[str, ...] = get_args(Border)

_FILL = {"black": 0, "white": 255}
_CV2_BORDERS = {
    "black": cv2.BORDER_CONSTANT,
    "white": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
}
# OpenCV 4 counts source pixels in 16 bits.
_FARTHEST = 2**14
# px by which an edge may miss the edge of a pixel and still be meant for it; far above rounding noise.
_ON_EDGE = 1e-6


def warp_affine(
    image: np.ndarray,
    matrix: np.ndarray,
    size_wh: tuple[int, int],
    *,
    border: Border = "black",
) -> np.ndarray:
    """Cut a crop: (H, W, 3) uint8 and (2, 3) -> (h, w, 3) uint8, C-contiguous.

    When shrinking, each pixel of the crop is the mean over about the area it covers in the picture, so nothing
    aliases: the picture is averaged over rectangles of whole pixels, sampled at twice the crop's size and averaged
    again. Where the crop is a rectangle of whole pixels of the picture, it is exactly that mean. When enlarging, it is
    plain bilinear: cubic would be sharper, but it overshoots at edges, and recognition sets are commonly made by
    bilinear. `border` rules what lies outside of the picture: one colour, the nearest pixel, or the mirrored picture.
    Only the region that the crop covers is read, so time and memory do not grow with the picture.

    ValueError where the crop reaches many times farther than the picture, or is so far away from it.
    """
    crop = warp_for_encoder(image, matrix, size_wh, border=border)
    return crop if crop.shape[2] == 3 else cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


def warp_for_encoder(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], *, border: Border = "black"
) -> np.ndarray:
    """As `warp_affine`, but (h, w, 3) or (h, w, 4), of which the fourth channel means nothing.

    OpenCV warps four channels in less than half the time of three, and encoders take either.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    image_wh = (image.shape[1], image.shape[0])
    whole = _whole_pixels(matrix, size_wh, image_wh)
    if whole is not None:
        return _resize(image[whole], size_wh)
    scale_xy = np.hypot(*matrix[:, :2])
    oversampling = 2 if scale_xy.min() < 1 else 1
    block_wh = (_block_size(scale_xy[0], image_wh[0]), _block_size(scale_xy[1], image_wh[1]))
    sampled_wh = (size_wh[0] * oversampling, size_wh[1] * oversampling)
    to_cells = _to_cells(matrix, oversampling, block_wh)
    low, high = _extremes(to_cells, sampled_wh)
    counts = np.ceil(np.divide(image_wh, block_wh)).astype(int)
    if border in _FILL and (np.any(high <= -1) or np.any(low >= counts)):
        return np.full((size_wh[1], size_wh[0], 3), _FILL[border], np.uint8)
    columns, rows = (_needed(low[axis], high[axis], int(counts[axis]), border) for axis in (0, 1))
    first = np.array([columns.start, rows.start])
    if not max((first - low).max(), (high - first).max()) < _FARTHEST:
        raise ValueError("the crop lies or reaches too far away from the picture")
    to_cells[:, 2] -= first
    crop = cv2.warpAffine(
        cv2.cvtColor(_block_means(image, rows, columns, block_wh), cv2.COLOR_RGB2RGBA),
        to_cells,
        sampled_wh,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=_CV2_BORDERS[border],
        borderValue=(_FILL.get(border, 0),) * 4,
    )
    if oversampling > 1:
        crop = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA)
    return crop


def _whole_pixels(
    matrix: np.ndarray, size_wh: tuple[int, int], image_wh: tuple[int, int]
) -> tuple[slice, slice] | None:
    """Rows and columns of the picture of which the crop consists, where it is such an upright rectangle."""
    if matrix[0, 1] or matrix[1, 0] or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        return None
    slices = []
    for axis in (1, 0):
        edges = (np.array([-0.5, size_wh[axis] - 0.5]) - matrix[axis, 2]) / matrix[axis, axis] + 0.5
        start, stop = np.rint(edges)
        if np.abs(edges - (start, stop)).max() > _ON_EDGE or not 0 <= start < stop <= image_wh[axis]:
            return None
        slices.append(slice(int(start), int(stop)))
    return slices[0], slices[1]


def _resize(region: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A region in the size of the crop: the mean over pixels along a side that shrinks, else bilinear."""
    height, width = region.shape[:2]
    shrunk_wh = (min(width, size_wh[0]), min(height, size_wh[1]))
    if shrunk_wh != (width, height):
        region = cv2.resize(region, shrunk_wh, interpolation=cv2.INTER_AREA)
    if shrunk_wh != size_wh:
        region = cv2.resize(region, size_wh, interpolation=cv2.INTER_LINEAR)
    return np.array(region, order="C")


def _block_size(scale: float, extent: int) -> int:
    """Side in px, in [1, extent], of the blocks to average over: just no smaller than half a pixel of the crop."""
    return max(math.ceil(min(0.5 / scale, extent)), 1)


def _to_cells(matrix: np.ndarray, oversampling: int, block_wh: tuple[int, int]) -> np.ndarray:
    """The matrix (2, 3) from pixels of the oversampled crop to blocks of the picture."""
    linear = np.linalg.inv(matrix[:, :2])
    first = linear @ (0.5 / oversampling - 0.5 - matrix[:, 2])  # where the first pixel lies in the picture
    block = np.array(block_wh)
    return np.column_stack([linear / oversampling / block[:, None], (first + 0.5) / block - 0.5])


def _extremes(to_cells: np.ndarray, sampled_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest x and y of the blocks that the pixels of the crop lie on: two (2,)."""
    width, height = sampled_wh[0] - 1, sampled_wh[1] - 1
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ to_cells[:, :2].T + to_cells[:, 2]
    return corners.min(axis=0), corners.max(axis=0)


def _needed(low: float, high: float, count: int, border: Border) -> slice:
    """The blocks, out of `count`, that values between `low` and `high` are read from under the border rule."""
    if border == "reflect":  # what lies beyond an edge is read as far within it
        low, high = min(low, 2 * count - 1 - high), max(high, -1 - low)
    start = min(max(math.floor(low), 0), count - 1)
    return slice(start, min(max(math.floor(high) + 2, start + 1), count))


def _block_means(image: np.ndarray, rows: slice, columns: slice, block_wh: tuple[int, int]) -> np.ndarray:
    """Means over blocks of pixels, for the given rows and columns of blocks; a cut-off last block is filled up."""
    block_width, block_height = block_wh
    region = image[
        rows.start * block_height : rows.stop * block_height, columns.start * block_width : columns.stop * block_width
    ]
    if block_wh == (1, 1):
        return region
    cells_wh = (columns.stop - columns.start, rows.stop - rows.start)
    missing_x, missing_y = cells_wh[0] * block_width - region.shape[1], cells_wh[1] * block_height - region.shape[0]
    if missing_x or missing_y:
        region = cv2.copyMakeBorder(region, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE)
    return cv2.resize(region, cells_wh, interpolation=cv2.INTER_AREA)
