"""Boxes as arrays: x1, y1, x2, y2 with width = x2 - x1."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Overlap = Literal["union", "min"]


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Pairwise intersection over union: (N, 4) and (M, 4) -> (N, M); 0 where both boxes are empty."""
    a, b = np.asarray(a, dtype=np.float64).reshape(-1, 1, 4), np.asarray(b, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    union = _areas(a) + _areas(b) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], iou_threshold: float, overlap: Overlap = "union"
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: indices of the kept boxes (K,), best score first, ties by index.

    A box goes when its overlap with a better kept one exceeds `iou_threshold`; a box that went suppresses nothing. The
    overlap is the intersection over the union of the two areas, or over the smaller area ("min"). Takes O(N) memory.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    x1, y1, x2, y2 = columns = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[order].T
    rest = np.vstack([columns, np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)])
    kept = []
    while order.size:
        kept.append(order[0])
        survives = ~_overlaps_first(rest, iou_threshold, overlap)
        order, rest = order[1:][survives], rest[:, 1:][:, survives]
    return np.array(kept, dtype=np.int64)


def _overlaps_first(columns: NDArray[np.float64], iou_threshold: float, overlap: Overlap) -> NDArray[np.bool_]:
    """Which of the boxes after the first overlap it too much: (5, N) of x1, y1, x2, y2, area -> (N - 1,)."""
    x1, y1, x2, y2, area = columns[:, 1:]
    first_x1, first_y1, first_x2, first_y2, first_area = columns[:, 0]
    width = np.minimum(x2, first_x2) - np.maximum(x1, first_x1)
    height = np.minimum(y2, first_y2) - np.maximum(y1, first_y1)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    whole = np.minimum(area, first_area) if overlap == "min" else area + first_area - intersection
    too_much: NDArray[np.bool_] = intersection > iou_threshold * whole
    return too_much


def square_boxes(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest squares around the boxes with the same centres: (N, 4) -> (N, 4)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half_sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.hstack([centres - half_sides, centres + half_sides])


def shift_edges(boxes: NDArray[np.float64], offsets: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Apply a box regression, offsets in widths and heights of the box: (N, 4) and (N, 4) -> (N, 4)."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets * np.tile(sizes, 2)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)
    return areas
