"""The grid of P-Net: which windows its cells look at, in which parts it scans a level, and which of them go on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

# P-Net's cells look at windows of 12 x 12 px that lie 2 px apart.
WINDOW_PX = 12
STRIDE_PX = 2
# What P-Net holds of so many cells a side stays in the processor's cache, which saves a fifth of the time on large
# images; the tiles overlap by little. Makes no difference to the result, but for the order of equal scores.
_MAX_CELLS_PER_TILE = 72


def num_cells(side_px: int) -> int:
    """How many cells P-Net makes of so many pixels; it pools with a ragged end, so that an odd pixel makes one more."""
    return math.ceil((side_px - WINDOW_PX + STRIDE_PX) / STRIDE_PX)


def split_tiles(level: NDArray[np.uint8]) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
    """Parts of a level (height, width, 3) whose maps of cells, side by side, are that of the whole.

    Yields row and column of the first cell, and the pixels.
    """
    rows, columns = (list(_split(num_cells(side))) for side in level.shape[:2])
    for (top, bottom), (left, right) in product(rows, columns):
        overlap_px = WINDOW_PX - STRIDE_PX
        tile = level[
            STRIDE_PX * top : STRIDE_PX * bottom + overlap_px, STRIDE_PX * left : STRIDE_PX * right + overlap_px
        ]
        yield (top, left), np.ascontiguousarray(tile)


def _split(length: int) -> Iterator[tuple[int, int]]:
    """Begin and end of as few parts as may be, about equal."""
    num_parts = math.ceil(length / _MAX_CELLS_PER_TILE)
    bounds = [part * length // num_parts for part in range(num_parts + 1)]
    yield from pairwise(bounds)


def cell_edges(cells: NDArray[np.int64], pixel_wh: NDArray[np.float64]) -> NDArray[np.float64]:
    """The windows of cells (N, 2), row and column, as outer edges in an image: (N, 4).

    `pixel_wh` (N, 2) is how many of the image's pixels, across and down, make one of the level's.
    """
    corners = STRIDE_PX * cells[:, ::-1]
    return np.hstack([corners * pixel_wh, (corners + WINDOW_PX) * pixel_wh])


def suppress_cells(
    map_shapes: Sequence[tuple[int, int]],
    levels: NDArray[np.int64],
    cells: NDArray[np.int64],
    scores: NDArray[np.float32],
    iou_threshold: float,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression within each level, as `boxes.nms` does it: indices, best score first.

    The windows of a level are equal in size, so that their overlap follows from their places in the grid, and each has
    to be compared with its neighbours alone. In each round those stay that are better than all neighbours still in
    question, and these neighbours go, until none is in question.

    Args:
        map_shapes: Rows and columns of cells of each level.
        levels: (N,), the level of each window.
        cells: (N, 2), its row and column.
        scores: (N,).
        iou_threshold: Of two windows that overlap more the worse one goes.
    """
    order = np.argsort(-scores, kind="stable")
    ranks, no_rank = np.arange(len(order)), len(order)
    neighbours = _neighbours(map_shapes, levels[order], cells[order], _overlapping_steps(iou_threshold))
    is_open = np.append(np.ones(len(order), np.bool_), False)
    is_kept = np.zeros(len(order), np.bool_)
    while is_open.any():
        best_neighbour = np.where(is_open[neighbours], neighbours, no_rank).min(axis=1, initial=no_rank)
        stays = is_open[:-1] & (ranks < best_neighbour)
        is_kept |= stays
        is_open[:-1] &= ~stays
        is_open[neighbours[stays]] = False
    kept: NDArray[np.int64] = order[is_kept]
    return kept


@lru_cache
def _overlapping_steps(iou_threshold: float) -> NDArray[np.int64]:
    """The distances (K, 2), in cells, of windows that overlap by more, without 0, 0."""
    cells_per_window = WINDOW_PX // STRIDE_PX
    reach = np.arange(1 - cells_per_window, cells_per_window)
    common = cells_per_window - np.abs(reach)
    intersection = np.multiply.outer(common, common)
    overlaps = intersection > iou_threshold * (2 * cells_per_window**2 - intersection)
    steps: NDArray[np.int64] = np.argwhere(overlaps) + reach[0]
    return steps[steps.any(axis=1)]


def _neighbours(
    map_shapes: Sequence[tuple[int, int]],
    levels: NDArray[np.int64],
    cells: NDArray[np.int64],
    steps: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The index of the cell at each step (K, 2) from each: (N, K); N where there is none."""
    margin = WINDOW_PX // STRIDE_PX
    shapes = np.array(map_shapes, np.int64).reshape(-1, 2) + 2 * margin
    ends = np.cumsum(shapes.prod(axis=1))
    # All levels' maps, with margins, one behind the other.
    widths = shapes[levels, 1]
    places = ends[levels] - shapes[levels].prod(axis=1) + (cells[:, 0] + margin) * widths + cells[:, 1] + margin
    index_at = np.full(ends[-1] if len(ends) else 0, len(cells), np.int32)
    index_at[places] = np.arange(len(cells))
    return index_at[places[:, np.newaxis] + np.outer(widths, steps[:, 0]) + steps[:, 1]]
