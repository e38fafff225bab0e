"""Boxes as arrays: x1, y1, x2, y2 with width = x2 - x1."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Overlap = Literal["union", "min"]

# Boxes that are compared with the rest at once: few rounds, and tables that stay in the processor's cache.
_BOXES_PER_ROUND = 32


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
        # Of the best boxes that are left, all that overlap with a better one are compared with each other first.
        overlaps = _overlap_too_much(rest[:, :_BOXES_PER_ROUND], rest, iou_threshold, overlap)
        chosen = _keep_greedily(overlaps[:, : len(overlaps)])
        kept.append(order[chosen])
        survives = ~overlaps[chosen, len(overlaps) :].any(axis=0)
        order, rest = order[len(overlaps) :][survives], rest[:, len(overlaps) :][:, survives]
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _keep_greedily(overlaps: NDArray[np.bool_]) -> list[int]:
    """Which of some boxes, best first, no better kept one overlaps: (N, N), true on the diagonal -> indices."""
    is_open = np.ones(len(overlaps), np.bool_)
    kept = []
    for index, overlapped in enumerate(overlaps):
        if is_open[index]:
            kept.append(index)
            is_open &= ~overlapped
    return kept


def _overlap_too_much(
    a: NDArray[np.float64], b: NDArray[np.float64], iou_threshold: float, overlap: Overlap
) -> NDArray[np.bool_]:
    """Which boxes overlap too much: (5, N) and (5, M) of x1, y1, x2, y2, area -> (N, M)."""
    x1, y1, x2, y2, area = a[:, :, np.newaxis]
    intersection = _common_length(x1, x2, b[0], b[2])
    height = _common_length(y1, y2, b[1], b[3])
    intersection *= height
    if overlap == "min":
        whole = np.minimum(area, b[4], out=height)
    else:
        whole = np.add(area, b[4], out=height)
        whole -= intersection
    whole *= iou_threshold
    too_much: NDArray[np.bool_] = intersection > whole
    return too_much


def _common_length(
    first: NDArray[np.float64],
    last: NDArray[np.float64],
    others_first: NDArray[np.float64],
    others_last: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What intervals have in common with others: (N, 1), (N, 1), (M,) and (M,) -> (N, M)."""
    length = np.minimum(last, others_last)
    length -= np.maximum(first, others_first)
    common: NDArray[np.float64] = np.maximum(length, 0, out=length)
    return common


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
