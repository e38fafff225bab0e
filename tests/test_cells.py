"""P-Net's grid: its windows, its tiles, and the suppression among its cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import astronaut

from facemill.models import cells
from facemill.models.boxes import nms
from facemill.models.cells import cell_edges, num_cells, split_tiles, suppress_cells
from facemill.models.sessions import Network, open_session
from facemill.models.weights import load_weights

NO_CELLS = np.zeros((0, 2), np.int64)


@pytest.fixture(scope="module")
def pnet() -> Network:
    return open_session("pnet", load_weights("pnet"))


def scene(width: int, height: int) -> np.ndarray:
    """A photograph, repeated and cut to this size."""
    times = (-(-height // 512), -(-width // 512), 1)
    return np.ascontiguousarray(np.tile(astronaut(), times)[:height, :width])


@pytest.mark.parametrize("side_px", range(12, 60))
def test_as_many_cells_as_pnet_makes(pnet: Network, side_px: int) -> None:
    heads = pnet(scene(side_px, 30)[np.newaxis])
    assert heads.shape[2:] == (num_cells(30), num_cells(side_px))


def test_cell_edges_use_the_scale_of_each_axis() -> None:
    # Level pixels are 2 x 4 image pixels; cell (row 3, column 5) starts at level pixel (10, 6) and is 12 wide.
    edges = cell_edges(np.array([[3, 5]]), np.array([[2.0, 4.0]]))
    np.testing.assert_allclose(edges, [[20, 24, 44, 72]])
    # Each window has the scale of its level.
    edges = cell_edges(np.array([[3, 5], [0, 1]]), np.array([[2.0, 4.0], [0.5, 1.0]]))
    np.testing.assert_allclose(edges, [[20, 24, 44, 72], [1, 0, 7, 12]])
    assert cell_edges(NO_CELLS, np.zeros((0, 2))).shape == (0, 4)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        *[(600, 601), (700, 500), (2000, 131), (333, 332), (12, 6000), (5000, 12), (153, 155), (154, 154), (155, 153)],
        *[(156, 157), (297, 13), (299, 301), (12, 12), (13, 12), (163, 441), (1001, 157)],
    ],
)
def test_tiles_are_the_whole_level(pnet: Network, width: int, height: int) -> None:
    check_tiles(pnet, scene(width, height))


def check_tiles(pnet: Network, level: np.ndarray) -> None:
    """Their maps, each cell once, equal the map of the whole to the bit."""
    whole = pnet(level[np.newaxis])
    joined = np.full_like(whole, np.nan)
    for (row, column), tile in split_tiles(level):
        assert tile.flags.c_contiguous
        heads = pnet(tile[np.newaxis])
        place = (..., slice(row, row + heads.shape[2]), slice(column, column + heads.shape[3]))
        assert np.isnan(joined[place]).all()  # no cell twice
        joined[place] = heads
    np.testing.assert_array_equal(joined, whole)


@settings(max_examples=60)
@given(st.integers(12, 480), st.integers(12, 480))
def test_tiles_of_any_size_are_the_whole_level(pnet: Network, width: int, height: int) -> None:
    check_tiles(pnet, scene(width, height))


def test_tiles_are_few_and_small() -> None:
    level = np.zeros((2340, 3120, 3), np.uint8)  # a 20-megapixel image whose 20 px faces are shown 12 px wide
    shapes = [tile.shape[:2] for _, tile in split_tiles(level)]
    assert max(height * width for height, width in shapes) <= 154**2
    assert sum(height * width for height, width in shapes) < 1.2 * 2340 * 3120
    assert len({height for height, _ in shapes}) <= 3  # about equal: no thin rest


def random_cells(
    rng: np.random.Generator, num_levels: int, density: float
) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Shapes of maps, and the level, row and column of some of their cells, in the order of a scan."""
    shapes = [(int(rows), int(columns)) for rows, columns in rng.integers(1, 30, (num_levels, 2))]
    found = [np.argwhere(rng.random(shape) < density) for shape in shapes]
    levels = np.repeat(np.arange(num_levels), [len(part) for part in found])
    return shapes, levels, np.concatenate([NO_CELLS, *found])


def suppress_by_nms(levels: np.ndarray, windows: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """`boxes.nms` on the windows of one cell after the other, level by level."""
    kept: list[int] = []
    for level in np.unique(levels):
        places = np.flatnonzero(levels == level)
        edges = cell_edges(windows[places], np.ones((len(places), 2)))
        kept += places[nms(edges, scores[places], threshold)].tolist()
    return sorted(kept, key=lambda index: (-scores[index], index))


# What two windows can overlap by, in sixths of a window a side; between these values the threshold makes no difference.
COMMON = np.unique(np.multiply.outer(np.arange(1, 7), np.arange(1, 7)))
OVERLAPS = COMMON / (72 - COMMON)


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.sampled_from([0.05, 0.4, 1.0]),
    st.sampled_from([2, 40, 10**6]),
    st.sampled_from(np.convolve([0, *OVERLAPS], [0.5, 0.5], "valid").tolist()),
)
def test_suppression_among_cells_is_nms_within_each_level(
    seed: int, num_levels: int, density: float, num_scores: int, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    shapes, levels, windows = random_cells(rng, num_levels, density)
    scores = (rng.integers(0, num_scores, len(windows)) / num_scores).astype(np.float32)  # with ties
    kept = suppress_cells(shapes, levels, windows, scores, threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == suppress_by_nms(levels, windows, scores, threshold)


@pytest.mark.parametrize(
    ("step", "threshold"),
    [((0, 2), 0.5), ((2, 0), 0.5), ((-2, 0), 0.5), ((4, 2), 0.125), ((2, -4), 0.125), ((6, 0), 0.0), ((-6, -6), 0.0)],
)
def test_windows_that_overlap_by_exactly_the_threshold_both_stay(step: tuple[int, int], threshold: float) -> None:
    """Two cells apart: 4 of 6 columns are common, 24 of 48 = 0.5; with 4 x 2 common 8 of 64; 6 apart, none."""
    windows = np.array([[10, 10], [10 + step[0], 10 + step[1]]])
    levels, scores = np.zeros(2, np.int64), np.array([0.7, 0.9], np.float32)
    assert suppress_cells([(30, 30)], levels, windows, scores, threshold).tolist() == [1, 0]
    assert nms(cell_edges(windows, np.ones((2, 2))), scores, threshold).tolist() == [1, 0]
    nearer = windows - [[0, 0], np.sign(step)]
    assert suppress_cells([(30, 30)], levels, nearer, scores, threshold).tolist() == [1]


def test_windows_of_different_levels_do_not_suppress_each_other() -> None:
    """Nor do those at the end of one row and the start of the next, whose places in memory are neighbours."""
    shapes, levels = [(1, 3), (1, 3), (3, 3)], np.array([0, 1, 2, 2])
    windows = np.array([[0, 2], [0, 0], [2, 2], [2, 1]])
    assert suppress_cells(shapes, levels, windows, np.array([1, 2, 4, 3], np.float32), 0.1).tolist() == [2, 1, 0]


def test_a_window_that_went_suppresses_nothing() -> None:
    """In a row of cells one apart, each goes or stays by its better neighbour's fate, over any length."""
    windows = np.array([[0, column] for column in range(101)])
    scores = np.linspace(1, 0.5, 101, dtype=np.float32)
    threshold = 0.6  # one apart 30 / 42, two apart 24 / 48
    kept = suppress_cells([(1, 101)], np.zeros(101, np.int64), windows, scores, threshold)
    assert kept.tolist() == list(range(0, 101, 2))


@pytest.mark.parametrize("shapes", [[], [(1, 1)], [(5, 7), (2, 3)]])
def test_no_windows(shapes: list[tuple[int, int]]) -> None:
    kept = suppress_cells(shapes, np.zeros(0, np.int64), NO_CELLS, np.zeros(0, np.float32), 0.5)
    assert (kept.shape, kept.dtype) == ((0,), np.int64)


@pytest.mark.parametrize("cells_per_tile", [1, 7, 20, 1000])
def test_the_size_of_tiles_makes_no_difference(
    pnet: Network, monkeypatch: pytest.MonkeyPatch, cells_per_tile: int
) -> None:
    monkeypatch.setattr(cells, "_MAX_CELLS_PER_TILE", cells_per_tile)
    check_tiles(pnet, scene(301, 203))
