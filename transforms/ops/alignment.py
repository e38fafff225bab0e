"""Similarity transforms of landmarks, and crops cut along them without aliasing.

Coordinates are pixels, integer coordinates being pixel centres. Matrices are (2, 3), as `cv2.warpAffine` takes them:
they lead from the picture to the crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from facemill.models.errors import ConfigError
from facemill.transforms.ops.templates import Template, get_template

Border = Literal["black", "white", "replicate", "reflect"]
BORDERS: tuple[str, ...] = get_args(Border)

# Below this share of the numbers involved, a length is rounding noise.
_DEGENERATE = 1e-12
_FILL = {"black": 0, "white": 255}


@dataclass(frozen=True, slots=True)
class AlignOptions:
    """How crops are cut; ConfigError where a name is unknown.

    Attributes:
        template: Where the five landmarks go in the crop, and its size.
        border: What lies outside of the picture: one colour, the nearest pixel, or the mirrored picture.
    """

    template: str = "arcface112"
    border: Border = "black"

    def __post_init__(self) -> None:
        get_template(self.template)
        if self.border not in BORDERS:
            raise ConfigError(f"border must be one of {', '.join(BORDERS)}, got {self.border!r}")


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points moved by a (2, 3) matrix: (..., 2) -> (..., 2) float64."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def estimate_similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift from src to dst: (K, 2) and (K, 2) -> (2, 3) float64.

    Umeyama 1991, eqs. 40 to 42. In two dimensions the singular value decomposition comes down to one complex quotient
    z = scale * exp(i * angle), which cannot be a reflection. Points on one line are enough. ValueError where no such
    transform is determined: points that are all equal or fit no rotation better than another, fewer than two points, or
    numbers that are not finite.
    """
    src, dst = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or len(src) < 2:
        raise ValueError(f"a similarity needs two arrays of shape (K, 2), K >= 2, got {src.shape} and {dst.shape}")
    if not (np.isfinite(src).all() and np.isfinite(dst).all()):
        raise ValueError("a similarity needs finite points")
    from_offset, to_offset = src.mean(axis=0), dst.mean(axis=0)
    from_points, to_points = (src - from_offset) @ (1, 1j), (dst - to_offset) @ (1, 1j)
    from_length, to_length = np.linalg.norm(from_points), np.linalg.norm(to_points)
    if from_length <= _DEGENERATE * np.abs(src).max() or to_length <= _DEGENERATE * np.abs(dst).max():
        raise ValueError("no similarity is determined: the points are all equal")
    covariance = np.vdot(from_points, to_points)
    if abs(covariance) <= _DEGENERATE * from_length * to_length:
        raise ValueError("no similarity is determined: no rotation fits better than another")
    z = covariance / from_length**2
    linear = np.array([[z.real, -z.imag], [z.imag, z.real]])
    return np.column_stack([linear, to_offset - linear @ from_offset])


def similarity_scale(matrix: np.ndarray) -> float:
    """How many times larger a (2, 3) similarity makes things."""
    return math.hypot(matrix[0, 0], matrix[1, 0])


def align_face(image: np.ndarray, landmarks: np.ndarray, template: Template, *, border: Border = "black") -> np.ndarray:
    """The crop that puts a face at the template's places: (H, W, 3) uint8 and (5, 2) px -> (h, w, 3) uint8.

    ValueError where the landmarks determine no similarity.
    """
    matrix = estimate_similarity(landmarks, template.points)
    return warp_similarity(image, matrix, template.size_wh, border=border)


def warp_similarity(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], *, border: Border = "black"
) -> np.ndarray:
    """Cut a crop along a similarity: (H, W, 3) uint8 and (2, 3) -> (h, w, 3) uint8.

    When shrinking, each pixel of the crop is the mean over about the area it covers in the picture, so nothing
    aliases: the picture is averaged over squares of whole pixels, sampled at twice the crop's size and averaged again.
    When enlarging, it is plain bilinear: cubic would be sharper, but it overshoots at edges, and recognition sets
    are commonly made by bilinear. `border` rules what lies outside of the picture: one colour, the nearest pixel, or
    the mirrored picture. Only the region that the crop covers is read, so time and memory do not grow with the picture.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    scale = similarity_scale(matrix)
    oversampling = 2 if scale < 1 else 1
    height, width = image.shape[:2]
    block_wh = (_block_size(scale, width), _block_size(scale, height))
    x, y = _source_coordinates(matrix, size_wh, oversampling)
    x, columns = _fold((x + 0.5) / block_wh[0] - 0.5, math.ceil(width / block_wh[0]), border)
    y, rows = _fold((y + 0.5) / block_wh[1] - 0.5, math.ceil(height / block_wh[1]), border)
    crop = cv2.remap(
        _block_means(image, rows, columns, block_wh),
        (x - columns.start).astype(np.float32),
        (y - rows.start).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT if border in _FILL else cv2.BORDER_REPLICATE,
        borderValue=(_FILL.get(border, 0),) * 3,
    )
    return crop if oversampling == 1 else cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA)


def _block_size(scale: float, extent: int) -> int:
    """Side in px, in [1, extent], of the squares to average over: just no smaller than half a pixel of the crop."""
    return max(math.ceil(min(0.5 / scale, extent)), 1)


def _source_coordinates(
    matrix: np.ndarray, size_wh: tuple[int, int], oversampling: int
) -> tuple[np.ndarray, np.ndarray]:
    """x and y in the picture of each pixel of the oversampled crop: two (h, w) float64."""
    inverse = np.linalg.inv(matrix[:, :2])
    u = (np.arange(size_wh[0] * oversampling) + 0.5) / oversampling - 0.5 - matrix[0, 2]
    v = (np.arange(size_wh[1] * oversampling)[:, None] + 0.5) / oversampling - 0.5 - matrix[1, 2]
    return inverse[0, 0] * u + inverse[0, 1] * v, inverse[1, 0] * u + inverse[1, 1] * v


def _fold(coordinates: np.ndarray, count: int, border: Border) -> tuple[np.ndarray, slice]:
    """Coordinates brought to where the border rule takes its values among `count` cells, and the cells they need."""
    if border in _FILL:
        coordinates = np.clip(coordinates, -1, count)
    elif border == "replicate":
        coordinates = np.clip(coordinates, 0, count - 1)
    else:
        coordinates = count - np.abs(np.mod(coordinates + 0.5, 2 * count) - count) - 0.5
    start = min(max(math.floor(coordinates.min()), 0), count - 1)
    stop = min(max(math.floor(coordinates.max()) + 2, start + 1), count)
    return coordinates, slice(start, stop)


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
