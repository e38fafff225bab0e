from __future__ import annotations

import numpy as np
import pytest

from facemill.transforms.ops.drawing import contact_sheet, draw_faces

GREEN = (80, 255, 80)
YELLOW, CYAN, RED, MAGENTA, ORANGE = (255, 255, 0), (0, 255, 255), (255, 60, 60), (255, 80, 255), (255, 160, 0)
# A face as shares of the picture's sides.
BOX = np.array([0.2, 0.3, 0.8, 0.9])
POINTS = np.array([[0.35, 0.55], [0.65, 0.55], [0.5, 0.65], [0.4, 0.78], [0.6, 0.78]])


def near(image: np.ndarray, x: float, y: float, color: tuple[int, int, int]) -> bool:
    """Whether a pixel of about that colour lies within 1 px."""
    left, top = max(round(x) - 1, 0), max(round(y) - 1, 0)
    patch = image[top : top + 3, left : left + 3].astype(int)
    return bool((np.abs(patch - color).max(axis=2) < 40).any())


@pytest.mark.parametrize("width", [48, 250, 1024, 6000])
@pytest.mark.parametrize("ground", [0, 255, GREEN])
def test_box_and_points_are_seen_at_any_size_on_any_ground(width: int, ground: int | tuple[int, int, int]) -> None:
    height = width * 3 // 4
    image = np.full((height, width, 3), ground, np.uint8)
    before = image.copy()
    box, points = BOX * [width, height, width, height], POINTS * [width, height]
    drawn = draw_faces(image, box[None], np.array([0.987]), points[None])
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    for point, color in zip(points, (YELLOW, CYAN, RED, MAGENTA, ORANGE), strict=True):
        assert near(drawn, *point, color)
    for y in (box[1], box[3]):
        assert near(drawn, width * 0.5, y, GREEN)
    for x in (box[0], box[2]):
        assert near(drawn, x, height * 0.6, GREEN)
    # The dark edge of the lines: it must be there on a green ground, too.
    row = drawn[round(height * 0.6), : width // 2].astype(int)
    assert (row.max(axis=1) < 40).any()


def test_the_score_stands_above_its_box_or_inside_at_the_top() -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    points = np.full((1, 5, 2), np.nan)
    for top, rows in ((200.0, slice(170, 200)), (0.0, slice(3, 30))):
        box = np.array([[100, top, 300, top + 150]])
        drawn = draw_faces(image, box, np.array([0.5]), points)
        assert (drawn[rows, 105:140] != 128).any()
        other = draw_faces(image, box, np.array([0.81]), points)
        changed = np.argwhere((drawn != other).any(axis=2))
        assert len(changed) and rows.start <= changed[:, 0].min() and changed[:, 0].max() < rows.stop


def test_no_score_where_it_would_cover_the_face() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    box, points = np.array([[100, 100, 112, 112]]), np.full((1, 5, 2), np.nan)
    drawn = draw_faces(image, box, np.array([0.5]), points)
    assert drawn.any()
    np.testing.assert_array_equal(drawn, draw_faces(image, box, np.array([0.9]), points))


@pytest.mark.parametrize(
    ("box", "points"),
    [
        (np.full(4, np.nan), np.full((5, 2), np.inf)),
        (np.array([-1e30, -1e30, -1e29, -1e29]), np.full((5, 2), 1e30)),
    ],
)
def test_what_is_not_finite_or_far_outside_leaves_no_trace(box: np.ndarray, points: np.ndarray) -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    drawn = draw_faces(image, box[None], np.array([0.9]), points[None])
    np.testing.assert_array_equal(drawn, image)


def test_a_box_around_the_whole_picture_is_drawn_without_error() -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    box = np.array([[-1e9, 20, 1e9, 1e9]])
    assert near(draw_faces(image, box, np.array([0.9]), np.full((1, 5, 2), np.nan)), 70, 20, GREEN)


def test_no_faces_give_a_copy() -> None:
    image = np.full((30, 40, 3), 9, np.uint8)
    image.setflags(write=False)
    drawn = draw_faces(image, np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_contact_sheet_by_hand() -> None:
    """Three tiles of 10x8 in two columns, 4 px apart on grey."""
    crops = [np.full((8, 10, 3), value, np.uint8) for value in (10, 20, 30)]
    expected = np.full((4 + 8 + 4 + 8 + 4, 4 + 10 + 4 + 10 + 4, 3), 128, np.uint8)
    expected[4:12, 4:14] = 10
    expected[4:12, 18:28] = 20
    expected[16:24, 4:14] = 30
    np.testing.assert_array_equal(contact_sheet(crops, columns=2), expected)


def test_smaller_crops_are_centred_in_their_tile() -> None:
    sheet = contact_sheet([np.full((8, 10, 3), 10, np.uint8), np.full((4, 6, 3), 20, np.uint8)], columns=2)
    expected = np.full((16, 32, 3), 128, np.uint8)
    expected[4:12, 4:14] = 10
    expected[6:10, 20:26] = 20
    np.testing.assert_array_equal(sheet, expected)


def test_captions_stand_below_their_crops() -> None:
    crops = [np.full((112, 112, 3), 255, np.uint8)] * 2
    sheet = contact_sheet(crops, columns=1, captions=["Grace Höpper 0.998, a caption that is far too long", ""])
    assert sheet.shape == (4 + 2 * (112 + 16 + 4), 4 + 112 + 4, 3)
    dark = np.argwhere(sheet.max(axis=2) < 60)
    assert len(dark) > 50
    assert dark[:, 0].min() >= 4 + 112 and dark[:, 0].max() < 4 + 112 + 16
    assert dark[:, 1].min() >= 4 and dark[:, 1].max() < 4 + 112
    assert (sheet[4:116, 4:116] == 255).all() and (sheet[136:248, 4:116] == 255).all()


def test_contact_sheet_of_nothing_is_background() -> None:
    sheet = contact_sheet([], columns=3, captions=[])
    assert sheet.size and (sheet == 128).all()


@pytest.mark.parametrize(
    ("columns", "captions", "message"),
    [(0, None, "columns must be at least 1, got 0"), (2, ["one"], "one caption per crop, got 1 for 2 crops")],
)
def test_contact_sheet_refuses(columns: int, captions: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet([np.zeros((2, 2, 3), np.uint8)] * 2, columns=columns, captions=captions)
