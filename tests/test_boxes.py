"""Overlaps, suppression and regression of boxes."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.models.boxes import _BOXES_PER_ROUND, Overlap, box_iou, nms, shift_edges, square_boxes


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3),
        ([0, 0, 10, 10], [5, 5, 15, 15], 25 / 175),
        ([0, 0, 10, 10], [2, 2, 6, 6], 16 / 100),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
        ([0, 0, 10, 10], [30, 30, 40, 40], 0.0),
        ([3, 3, 3, 3], [3, 3, 3, 3], 0.0),
        ([9, 9, 2, 2], [0, 0, 10, 10], 0.0),
    ],
    ids=["same", "half", "corner", "inside", "touching", "apart", "empty", "inside out"],
)
def test_box_iou(a: list[float], b: list[float], expected: float) -> None:
    assert box_iou(np.array([a]), np.array([b])) == pytest.approx(expected)
    assert box_iou(np.array([b]), np.array([a])) == pytest.approx(expected)


def test_box_iou_is_pairwise() -> None:
    a = np.array([[0, 0, 10, 10], [5, 0, 15, 10]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [100, 0, 110, 10]])
    np.testing.assert_allclose(box_iou(a, b), [[1, 1 / 3, 0], [1 / 3, 1, 0]])
    assert box_iou(np.zeros((0, 4)), b).shape == (0, 3)
    assert box_iou(a, np.zeros((0, 4))).shape == (2, 0)


# A row of boxes 10 wide: neighbours 4 apart overlap by 60 / 140 = 0.43, every other one by 20 / 180 = 0.11.
ROW = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "overlap", "expected"),
    [
        (ROW, [0.9, 0.8, 0.7], 0.4, "union", [0, 2]),
        (ROW, [0.7, 0.9, 0.8], 0.4, "union", [1]),
        (ROW, [0.7, 0.8, 0.9], 0.4, "union", [2, 0]),
        (ROW, [0.7, 0.8, 0.9], 0.5, "union", [2, 1, 0]),
        (ROW, [0.5, 0.5, 0.5], 0.4, "union", [0, 2]),
        (ROW[::-1], [0.5, 0.5, 0.5], 0.5, "union", [0, 1, 2]),
        ([[0, 0, 10, 10], [0, 0, 10, 20]], [0.6, 0.5], 0.5, "union", [0, 1]),
        ([[0, 0, 10, 10], [0, 0, 10, 20.1]], [0.6, 0.5], 0.5, "union", [0, 1]),
        ([[0, 0, 10, 10], [0, 0, 10, 19.9]], [0.6, 0.5], 0.5, "union", [0]),
        ([[0, 0, 40, 40], [10, 10, 20, 20]], [0.6, 0.5], 0.7, "union", [0, 1]),
        ([[0, 0, 40, 40], [10, 10, 20, 20]], [0.6, 0.5], 0.7, "min", [0]),
        ([[0, 0, 10, 10], [4, 0, 24, 10]], [0.6, 0.5], 0.7, "min", [0, 1]),
        ([[1, 1, 1, 1], [1, 1, 1, 1]], [0.6, 0.5], 0.5, "min", [0, 1]),
    ],
    ids=[
        "a suppressed box suppresses nothing",
        "best in the middle",
        "order of scores",
        "below the threshold",
        "ties by index",
        "ties keep the order",
        "at the threshold stays",
        "just below",
        "just above",
        "inside, union",
        "inside, min",
        "sixty percent, min",
        "empty boxes",
    ],
)
def test_nms(
    boxes: list[list[float]], scores: list[float], threshold: float, overlap: str, expected: list[int]
) -> None:
    kept = nms(np.array(boxes, np.float32), np.array(scores, np.float32), threshold, overlap)  # type: ignore[arg-type]
    assert kept.tolist() == expected


def test_nms_keeps_the_order_of_many_equal_scores() -> None:
    corners = 20 * np.arange(200)
    boxes = np.stack([corners, corners, corners + 10, corners + 10], axis=1)
    assert nms(boxes, np.full(200, 0.5), 0.5).tolist() == list(range(200))


def test_nms_of_nothing() -> None:
    kept = nms(np.zeros((0, 4)), np.zeros(0), 0.5)
    assert kept.shape == (0,)
    assert np.zeros((0, 4))[kept].shape == (0, 4)


BOX = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))


@given(st.lists(BOX, max_size=4 * _BOXES_PER_ROUND))
def test_nms_equals_opencv(rows: list[tuple[int, ...]]) -> None:
    x, y, width, height, score = np.array(rows, float).reshape(-1, 5).T
    boxes = np.stack([x, y, x + width, y + height], axis=1)
    # No ratio of two areas up to 800 is this close to 0.41371, so rounding decides nothing.
    theirs = cv2.dnn.NMSBoxes(np.stack([x, y, width, height], axis=1).tolist(), score.tolist(), 0.0, 0.41371)
    assert nms(boxes, score, 0.41371).tolist() == list(theirs)


@given(st.lists(BOX, max_size=30), st.floats(0.05, 0.95), st.sampled_from(["union", "min"]))
def test_nms_keeps_and_removes_for_a_reason(rows: list[tuple[int, ...]], threshold: float, overlap: str) -> None:
    x, y, width, height, score = np.array(rows, float).reshape(-1, 5).T
    boxes = np.stack([x, y, x + width, y + height], axis=1)
    kept = nms(boxes, score, threshold, overlap).tolist()  # type: ignore[arg-type]

    def overlaps(i: int, j: int) -> bool:
        w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
        h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
        shared = max(w, 0) * max(h, 0)
        areas = width[i] * height[i], width[j] * height[j]
        return shared > threshold * (min(areas) if overlap == "min" else sum(areas) - shared)

    assert [score[i] for i in kept] == sorted((score[i] for i in kept), reverse=True)
    for i in range(len(rows)):
        better = [k for k in kept if (-score[k], k) < (-score[i], i)]
        assert any(overlaps(i, k) for k in better) == (i not in kept)


def keep_one_by_one(boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: Overlap) -> list[int]:
    """Greedy suppression as the papers have it: the best box that is left stays, what overlaps it goes."""
    areas = [max(x2 - x1, 0) * max(y2 - y1, 0) for x1, y1, x2, y2 in boxes.tolist()]
    left = sorted(range(len(boxes)), key=lambda index: -scores[index])  # stable: of equal ones the first
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        rest = []
        for other in left:
            sides = np.minimum(boxes[best, 2:], boxes[other, 2:]) - np.maximum(boxes[best, :2], boxes[other, :2])
            shared = float(np.prod(np.maximum(sides, 0)))
            whole = areas[best] + areas[other] - shared if overlap == "union" else min(areas[best], areas[other])
            if not shared > threshold * whole:
                rest.append(other)
        left = rest
    return kept


# Round numbers, so that boxes that overlap exactly as much as the threshold occur, and are reckoned without rounding.
THRESHOLDS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


@given(
    st.integers(0, 6 * _BOXES_PER_ROUND),
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 12, 60]),
    st.sampled_from([1, 3, 1000]),
    THRESHOLDS,
    st.sampled_from(["union", "min"]),
)
def test_nms_in_rounds_is_greedy(
    count: int, seed: int, extent: int, num_scores: int, threshold: float, overlap: Overlap
) -> None:
    """Many boxes, with ties, doubles, and some that are empty or inside out."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, extent, (count, 2))
    boxes = np.hstack([corners, corners + rng.integers(-1, 9, (count, 2))])
    scores = rng.integers(0, num_scores, count)
    kept = nms(boxes, scores, threshold, overlap)
    assert kept.dtype == np.int64
    assert kept.tolist() == keep_one_by_one(boxes, scores, threshold, overlap)


@pytest.mark.parametrize("count", [_BOXES_PER_ROUND - 1, _BOXES_PER_ROUND, _BOXES_PER_ROUND + 1])
def test_a_box_suppresses_in_later_rounds(count: int) -> None:
    """The first box overlaps the last alone; those between overlap nothing."""
    corners = 20 * np.arange(count + 1)
    boxes = np.stack([corners, corners, corners + 10, corners + 10], axis=1)
    boxes[-1] = boxes[0] + 1
    assert nms(boxes, -np.arange(count + 1), 0.5).tolist() == list(range(count))


def test_nms_takes_memory_in_proportion_to_the_boxes() -> None:
    corners = np.random.default_rng(0).uniform(0, 100, (20_000, 2))
    boxes = np.hstack([corners, corners + 60])
    tracemalloc.start()
    kept = nms(boxes, corners[:, 0], 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1 < len(kept) < 100
    assert peak < 20e6  # all pairs would take 400 million overlaps


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 10, 20], [-5, 0, 15, 20]),
        ([0, 0, 20, 10], [0, -5, 20, 15]),
        ([1, 2, 4, 5], [1, 2, 4, 5]),
        ([5, 5, 3, 3], [4, 4, 4, 4]),
    ],
    ids=["tall", "wide", "square", "inside out"],
)
def test_square_boxes(box: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(square_boxes(np.array([box], float)), [expected])


def test_shift_edges_counts_in_widths_and_heights() -> None:
    boxes = np.array([[10.0, 20.0, 30.0, 60.0]])
    moved = shift_edges(boxes, np.array([[0.1, -0.1, -0.2, 0.5]]))
    np.testing.assert_allclose(moved, [[12, 16, 26, 80]])
    np.testing.assert_array_equal(boxes, [[10, 20, 30, 60]])


def test_boxes_of_nothing() -> None:
    nothing = np.zeros((0, 4))
    assert square_boxes(nothing).shape == shift_edges(nothing, nothing).shape == (0, 4)
