"""An image at several scales: halves, from which patches are cut, and the levels that P-Net scans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemill.models.cells import WINDOW_PX


class Level(NamedTuple):
    """What P-Net is shown at one scale."""

    pixels: NDArray[np.uint8]  # (height, width, 3)
    pixel_wh: tuple[float, float]  # how many pixels of the original, across and down, make one of these


class ImagePyramid:
    """An image and its halves, made when they are first asked for.

    A half is the mean of 2 x 2 pixels; behind an odd last row or column comes a copy of it. Levels and patches are
    interpolated from the half that has at least their number of pixels, and less than twice as many a side: as exact as
    taking the mean over each of their pixels, to the accuracy of the cascade, and several times cheaper.

    Args:
        image: (H, W, 3) uint8.
        reduction: How many pixels of the original, a side, make a pixel of `image`; everything else here counts in
            pixels of the original.
    """

    def __init__(self, image: NDArray[np.uint8], reduction: int = 1) -> None:
        self.reduction = reduction
        self.size_wh = (image.shape[1] * reduction, image.shape[0] * reduction)
        # Of a view with another layout OpenCV would copy the whole for each patch.
        self._halves = [np.ascontiguousarray(image)]

    def half(self, times: int) -> NDArray[np.uint8]:
        """The image, halved so many times."""
        while len(self._halves) <= times:
            self._halves.append(_halve(self._halves[-1]))
        return self._halves[times]

    def levels(self, *, min_face_size_px: float, scale_factor: float) -> Iterator[Level]:
        """What P-Net is to see; in the first level faces of `min_face_size_px` fill its window.

        None when the image is smaller than the smallest face.
        """
        scale = WINDOW_PX / min_face_size_px
        while min(self.size_wh) * scale >= WINDOW_PX:
            yield self._level(scale)
            scale *= scale_factor

    def _level(self, scale: float) -> Level:
        import cv2

        times = int(times_halved(np.array(1 / scale), self.reduction))
        source = self.half(times)
        # Of the half, not of the image: the copied last row or column belongs to what is shown.
        extent_wh = [side * self.reduction * 2**times for side in source.shape[1::-1]]
        size_wh = [round(extent * scale) for extent in extent_wh]
        pixels = np.asarray(cv2.resize(source, size_wh, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        return Level(pixels, (extent_wh[0] / size_wh[0], extent_wh[1] / size_wh[1]))


def times_halved(steps_px: NDArray[np.float64], reduction: int = 1) -> NDArray[np.int64]:
    """How often to halve an image so that samples (...) px of the original apart lie 1 to 2 of its pixels apart."""
    steps = np.maximum(steps_px / reduction, 1)
    times: NDArray[np.int64] = np.floor(np.log2(steps) + 1e-9).astype(np.int64)
    return times


def _halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), dtype=np.uint8)
    size_wh = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
