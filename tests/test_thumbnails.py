"""Small pictures: which part of an original they show, against hand calculation; and their files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pictures import jpeg, portrait, scenery
from PIL import Image, ImageFile

from facemill.models.errors import BadInputError
from facemill.transforms.ops.alignment import transform_points
from facemill.transforms.ops.decoding import read_header
from facemill.transforms.ops.thumbnails import (
    View,
    encode_within,
    show,
    show_damaged,
    view_of_face,
    view_of_whole,
)

RED, GREEN, BLUE = (230, 20, 20), (20, 200, 20), (20, 20, 230)


def edges(view: View, x: float, y: float) -> list[float]:
    """Where a point, px from the original's outer edges, lies in the view, px from its outer edges."""
    return (transform_points(view.matrix, np.array([x - 0.5, y - 0.5])) + 0.5).tolist()


def test_a_face_is_in_the_middle_with_room_around_it() -> None:
    """A box of 100 x 80 px gets a window of 190 px, here 0.8 times as large; edges at 205 to 305 and 310 to 390."""
    view = view_of_face(np.array([204.5, 309.5, 304.5, 389.5]), (800, 700), side_px=152)
    assert view.size_wh == (152, 152)
    assert edges(view, 255 - 95, 350 - 95) == pytest.approx([0, 0])
    assert edges(view, 255 + 95, 350 + 95) == pytest.approx([152, 152])
    assert edges(view, 205, 310) == pytest.approx([36, 44])


def test_at_the_edge_the_window_moves_into_the_picture() -> None:
    view = view_of_face(np.array([-20.0, 600.0, 80.0, 700.0]), (800, 700), side_px=190)
    assert view.size_wh == (190, 190)
    assert edges(view, 0, 700) == pytest.approx([0, 190])


def test_a_picture_smaller_than_the_window_is_shown_as_it_is() -> None:
    view = view_of_face(np.array([0.0, 0.0, 100.0, 120.0]), (120, 160), side_px=160)
    assert view.size_wh == (120, 160)
    assert edges(view, 0, 0) == pytest.approx([0, 0])
    assert edges(view, 120, 160) == pytest.approx([120, 160])


@pytest.mark.parametrize("box", [[10, 10, 10, 10], [50, 50, 40, 40], [1e9, 1e9, 2e9, 2e9], [-1e30, 0, 1e30, 9]])
def test_odd_boxes_show_something_of_the_picture(box: list[float]) -> None:
    view = view_of_face(np.array(box), (300, 200), side_px=160)
    corners = [edges(view, x, y) for x, y in ((0, 0), (300, 200))]
    assert min(view.size_wh) >= 1 and max(view.size_wh) == 160
    assert np.all(np.array(corners[0]) <= 1e-6) and np.all(np.array(corners[1]) >= np.array(view.size_wh) - 1)


def test_a_box_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        view_of_face(np.array([0, 0, np.nan, 10]), (300, 200), side_px=160)


@pytest.mark.parametrize(
    ("image_wh", "size_wh"), [((800, 400), (160, 80)), ((100, 50), (100, 50)), ((9000, 3), (160, 1)), ((1, 1), (1, 1))]
)
def test_the_whole_picture_keeps_its_shape(image_wh: tuple[int, int], size_wh: tuple[int, int]) -> None:
    assert view_of_whole(image_wh, side_px=160).size_wh == size_wh


def quarters(width: int, height: int) -> np.ndarray:
    """Red, green above blue, white."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    return image


def stored_lying(image: np.ndarray) -> bytes:
    """The picture as a phone held sideways stores it, to be turned by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(image)).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("is_lying", [False, True])
@pytest.mark.parametrize("size_wh", [(400, 300), (2001, 1503)])
def test_views_are_upright_and_in_place_at_any_size(is_lying: bool, size_wh: tuple[int, int]) -> None:
    """The window around the middle, and the whole: in both, the four quarters meet in the centre."""
    image = quarters(*size_wh)
    data = stored_lying(image) if is_lying else jpeg(image)
    header = read_header(data)
    assert (header.width, header.height) == size_wh
    x, y = size_wh[0] // 2 - 0.5, size_wh[1] // 2 - 0.5
    side = size_wh[0] * 0.2
    box = np.array([x - side, y - side, x + side, y + side])
    views = [view_of_face(box, size_wh, side_px=160), view_of_whole(size_wh, side_px=160)]
    for shown, view in zip(show(data, header, views, max_pixels=10**8), views, strict=True):
        assert shown.shape == (view.size_wh[1], view.size_wh[0], 3)
        center = transform_points(view.matrix, np.array([x, y]))
        for color, step in ((RED, (-4, -4)), (GREEN, (4, -4)), (BLUE, (-4, 4)), ((255,) * 3, (4, 4))):
            column, row = np.rint(center + step).astype(int)
            np.testing.assert_allclose(shown[row, column], color, atol=30)


def test_a_reduced_original_is_shown_as_the_full_one_is() -> None:
    """Of 2,048 px a picture of 160 px needs one in eight; both must agree with Pillow's own reduction."""
    image = np.asarray(Image.open(io.BytesIO(scenery(0))).resize((2048, 1536), Image.Resampling.BICUBIC))
    data = jpeg(image, quality=95)
    view = view_of_whole((2048, 1536), side_px=160)
    (shown,) = show(data, read_header(data), [view], max_pixels=10**8)
    expected = np.asarray(Image.fromarray(image).resize((160, 120), Image.Resampling.BOX)).astype(float)
    assert np.abs(shown - expected).mean() < 3


def test_what_is_too_large_is_not_decoded() -> None:
    data = jpeg(quarters(400, 300))
    with pytest.raises(BadInputError, match="too_large"):
        show(data, read_header(data), [view_of_whole((400, 300), side_px=160)], max_pixels=1000)


def test_what_is_left_of_a_damaged_picture_is_shown() -> None:
    whole = jpeg(quarters(400, 300))
    shown = show_damaged(whole[: len(whole) * 2 // 3], max_pixels=10**6, side_px=160)
    assert shown is not None and shown.shape == (120, 160, 3)
    np.testing.assert_allclose(shown[10, 10], RED, atol=30)
    np.testing.assert_allclose(shown[10, 150], GREEN, atol=30)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "BMP"])
def test_other_damaged_formats_are_left_alone(image_format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(quarters(40, 30)).save(buffer, image_format)
    assert show_damaged(buffer.getvalue()[:-50], max_pixels=10**6, side_px=160) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(20), portrait(0)[:100]])
def test_of_a_mere_beginning_nothing_is_shown(data: bytes) -> None:
    assert show_damaged(data, max_pixels=10**6, side_px=160) is None


def test_a_damaged_picture_that_claims_to_be_huge_is_left_alone() -> None:
    assert show_damaged(jpeg(quarters(400, 300))[:-900], max_pixels=1000, side_px=160) is None


@pytest.mark.parametrize("max_bytes", [12_000, 4_000, 1_000, 700])
def test_files_stay_below_their_limit(max_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 120, 3), np.uint8)
    data = encode_within(noise, max_bytes)
    assert len(data) <= max_bytes
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert picture.width / picture.height == pytest.approx(120 / 160, abs=0.05)


def test_a_picture_that_fits_keeps_its_size_and_colours() -> None:
    image = quarters(80, 60)
    decoded = np.asarray(Image.open(io.BytesIO(encode_within(image, 12_000)))).astype(int)
    assert np.abs(decoded[10, 10] - RED).max() < 12
    assert decoded.shape == image.shape


def test_a_tiny_picture_may_be_larger() -> None:
    assert len(encode_within(np.zeros((1, 1, 3), np.uint8), 10)) > 10
