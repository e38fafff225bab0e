"""Small pictures of faces and of whole images: which part of an original they show, and their files.

Coordinates are pixels, integer coordinates being pixel centres. Matrices are (2, 3), from px of the upright, full-size
original to px of the small picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile

from facemill.models.errors import BadInputError
from facemill.transforms.ops.decoding import ImageHeader, check_limits, decode_at
from facemill.transforms.ops.pillow_pixels import quiet_pillow
from facemill.transforms.ops.reduction import crop_reduction, grid_of
from facemill.transforms.ops.signatures import sniff_format
from facemill.transforms.ops.warping import warp_affine

_CONTEXT = 1.9  # side of the window around a face, in sides of its box
_MIN_WINDOW_PX = 40.0
_QUALITIES = (88, 80, 70, 58, 45, 32)
_MIN_SIDE_PX = 16
# Of damaged files only those formats are looked at whose decoders end well, whatever they are given.
_SALVAGED = ("JPEG", "PNG")


class View(NamedTuple):
    """A part of an original: the matrix that leads to the small picture, and its size."""

    matrix: np.ndarray
    size_wh: tuple[int, int]


def view_of_face(box: np.ndarray, image_wh: tuple[int, int], *, side_px: int) -> View:
    """A face with what is around it, as far as the picture goes: box (4,) px, size of the original.

    A square, but for pictures that are smaller than it. ValueError for a box that is not finite.
    """
    box = np.asarray(box, dtype=np.float64)
    if not np.isfinite(box).all():
        raise ValueError(f"a box must be finite, got {box}")
    extent = np.array(image_wh, dtype=np.float64)
    side = np.maximum((box[2:] - box[:2]).max() * _CONTEXT, _MIN_WINDOW_PX)
    window = np.minimum(side, extent)
    center = (box[:2] + box[2:]) / 2 + 0.5  # from the picture's edges, which lie half a pixel before the centres
    return _view(np.clip(center - window / 2, 0, extent - window), window, side_px / window.max())


def view_of_whole(image_wh: tuple[int, int], *, side_px: int) -> View:
    """The whole picture, its longer side being `side_px`, or as large as it is where that is less."""
    return _view(np.zeros(2), np.array(image_wh), min(1.0, side_px / max(image_wh)))


def _view(first: np.ndarray, window: np.ndarray, scale: float) -> View:
    """The rectangle that begins at `first` and is as large as `window`, (2,) px from the picture's outer edges."""
    width, height = np.maximum(1, np.rint(window * scale)).astype(int).tolist()
    return View(np.column_stack([np.eye(2) * scale, (0.5 - first) * scale - 0.5]), (width, height))


def show(data: bytes, header: ImageHeader, views: Sequence[View], *, max_pixels: int) -> list[np.ndarray]:
    """The views of an encoded file, which is decoded once and no larger than they need: (h, w, 3) uint8 RGB each.

    Raises BadInputError as the run does.
    """
    check_limits(header, max_pixels=max_pixels, min_side_px=1)
    largest_scale = max(float(view.matrix[0, 0]) for view in views)
    image, reduction = decode_at(data, header, reduction=crop_reduction(largest_scale))
    grid = grid_of((header.width, header.height), header.exif_orientation, reduction)
    return [
        warp_affine(image, grid.matrix_from_original(view.matrix), view.size_wh, border="replicate") for view in views
    ]


def show_damaged(data: bytes, *, max_pixels: int, side_px: int) -> np.ndarray | None:
    """What can be seen of a damaged JPEG or PNG file, not turned by EXIF: (h, w, 3) uint8 RGB, or None."""
    if sniff_format(data) not in _SALVAGED:
        return None
    try:
        with quiet_pillow(data), Image.open(io.BytesIO(data), formats=_SALVAGED) as picture:
            if picture.width * picture.height > max_pixels:
                return None
            before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
            try:
                picture.draft("RGB", (2 * side_px, 2 * side_px))
                picture.thumbnail((side_px, side_px))
                return np.asarray(picture.convert("RGB"))
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = before
    except BadInputError:
        return None


def encode_within(image: np.ndarray, max_bytes: int) -> bytes:
    """(h, w, 3) uint8 RGB -> a JPEG file of at most `max_bytes`, at the price of quality and then of size.

    Only one that is tiny already may be larger.
    """
    while True:
        for quality in _QUALITIES:
            done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            assert done, f"OpenCV could not encode a picture of shape {image.shape}"
            if encoded.size <= max_bytes:
                return encoded.tobytes()
        height, width = image.shape[:2]
        if max(height, width) <= _MIN_SIDE_PX:
            return encoded.tobytes()
        image = cv2.resize(image, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
