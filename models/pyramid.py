"""P-Net over an image: which sizes it is shown, in which parts, and where its cells lie."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# P-Net's cells look at windows of 12 x 12 px that lie 2 px apart.
WINDOW_PX = 12
STRIDE_PX = 2
# Strips bound the memory of a run of P-Net, some 100 bytes per pixel, and make no difference to the result. Small ones
# stay in the processor's cache, which saves a quarter of the time; too low ones are mostly overlap.
_STRIP_PIXELS = 2**15
_MIN_ROWS_PER_STRIP = 24


def pyramid_sizes(size_wh: tuple[int, int], *, min_face_size_px: float, scale_factor: float) -> list[tuple[int, int]]:
    """Sizes (width, height) at which P-Net sees an image; in the first, faces of `min_face_size_px` fill its window.

    None when the image is smaller than the smallest face.
    """
    sizes = []
    scale = WINDOW_PX / min_face_size_px
    while min(size_wh) * scale >= WINDOW_PX:
        sizes.append((round(size_wh[0] * scale), round(size_wh[1] * scale)))
        scale *= scale_factor
    return sizes


def split_strips(level: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Horizontal strips whose maps of cells, one below the other, are that of the whole level (height, width, 3).

    Yields the first row of cells and the strip's pixels.
    """
    height, width = level.shape[:2]
    overlap_px = WINDOW_PX - STRIDE_PX
    # P-Net pools with a ragged last row: an odd row of pixels at the end makes a cell of its own.
    num_rows = math.ceil((height - overlap_px) / STRIDE_PX)
    rows_per_strip = max(_MIN_ROWS_PER_STRIP, (_STRIP_PIXELS // width - overlap_px) // STRIDE_PX)
    for first_row in range(0, num_rows, rows_per_strip):
        end_row = min(first_row + rows_per_strip, num_rows)
        yield first_row, level[STRIDE_PX * first_row : STRIDE_PX * end_row + overlap_px]


def cell_edges(
    rows: NDArray[np.int64], columns: NDArray[np.int64], level_wh: tuple[int, int], image_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """The windows of P-Net's cells, as outer edges in the image: (N,) and (N,) -> (N, 4)."""
    corners = STRIDE_PX * np.stack([columns, rows], axis=1)
    # The sizes of a level are rounded, so each axis has its own scale.
    scale = np.array(image_wh) / level_wh
    return np.hstack([corners * scale, (corners + WINDOW_PX) * scale])
