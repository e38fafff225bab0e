"""The image's halves and the levels that P-Net scans: what they show, and where it lies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import astronaut, coffee

from facemill.models.cascade import Cascade, Detections, DetectorOptions
from facemill.models.pyramid import ImagePyramid, Level, times_halved


def levels_of(image: np.ndarray, min_face_size_px: float, scale_factor: float, reduction: int = 1) -> list[Level]:
    pyramid = ImagePyramid(image, reduction)
    return list(pyramid.levels(min_face_size_px=min_face_size_px, scale_factor=scale_factor))


@pytest.mark.parametrize(
    ("size_wh", "min_face_size_px", "expected"),
    [
        # The half of 25 rows has 13: the last one shows a copy as well.
        ((100, 50), 12, [(100, 50), (50, 25), (25, 13)]),
        ((100, 50), 24, [(50, 25), (25, 13)]),
        ((48, 96), 20, [(29, 58), (14, 29)]),
        ((24, 24), 24, [(12, 12)]),
        ((23, 24), 24, []),
        ((5000, 10), 12, []),
        ((12, 12), 12, [(12, 12)]),
    ],
)
def test_sizes_of_levels(size_wh: tuple[int, int], min_face_size_px: float, expected: list[tuple[int, int]]) -> None:
    width, height = size_wh
    levels = levels_of(np.zeros((height, width, 3), np.uint8), min_face_size_px, 0.5)
    assert [level.pixels.shape[1::-1] for level in levels] == expected


@pytest.mark.parametrize("reduction", [2, 4])
def test_sizes_of_levels_count_in_pixels_of_the_original(reduction: int) -> None:
    small = np.zeros((96 // reduction, 160 // reduction, 3), np.uint8)
    levels = levels_of(small, 24, 0.5, reduction)
    assert ImagePyramid(small, reduction).size_wh == (160, 96)
    assert [level.pixels.shape[1::-1] for level in levels] == [(80, 48), (40, 24), (20, 12)]
    assert [level.pixel_wh for level in levels] == [(2, 2), (4, 4), (8, 8)]


@pytest.mark.parametrize(
    ("step_px", "reduction", "expected"),
    [
        *[(0, 1, 0), (0.3, 1, 0), (1, 1, 0), (1.99, 1, 0), (2, 1, 1), (3.99, 1, 1), (4, 1, 2), (100, 1, 6)],
        *[(1, 4, 0), (7.9, 4, 0), (8, 4, 1), (16, 8, 1), (2 - 1e-12, 1, 1)],
    ],
)
def test_samples_lie_one_to_two_pixels_apart(step_px: float, reduction: int, expected: int) -> None:
    assert times_halved(np.array(step_px), reduction) == expected
    np.testing.assert_array_equal(times_halved(np.array([step_px, 1]), reduction), [expected, 0])


@pytest.mark.parametrize("shape", [(8, 10), (9, 10), (8, 11), (9, 11), (1, 1), (1, 6), (37, 53)])
def test_a_half_is_the_mean_of_four_pixels(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pyramid = ImagePyramid(image)
    assert pyramid.half(0) is image
    for times in (1, 2):
        rows, columns = np.array(image.shape[:2]) % 2
        even = np.pad(image, [(0, rows), (0, columns), (0, 0)], mode="edge").astype(float)
        means = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
        np.testing.assert_allclose(pyramid.half(times), means, rtol=0, atol=0.5)
        image = pyramid.half(times)
        assert pyramid.half(times) is image  # made once


def test_the_image_is_left_alone() -> None:
    image = np.random.default_rng(2).integers(0, 256, (101, 75, 3), dtype=np.uint8)
    image.flags.writeable = False
    kept = image.copy()
    assert len(levels_of(image, 12, 0.709)) == 6
    np.testing.assert_array_equal(image, kept)


def spot(size_wh: tuple[int, int], centre: tuple[float, float], sigma: float) -> np.ndarray:
    """A picture, black but for a soft spot around `centre`, counted from the image's corner."""
    x, y = (np.arange(side) + 0.5 for side in size_wh)
    column, row = np.exp(-((x - centre[0]) ** 2) / (2 * sigma**2)), np.exp(-((y - centre[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(250 * row[:, np.newaxis] * column)[..., np.newaxis], 3, axis=2).astype(np.uint8)


def find_spot(pixels: np.ndarray) -> np.ndarray:
    """Its centre, x and y from the picture's corner, px."""
    weights = np.maximum(pixels[..., 0].astype(float) - 3, 0)
    rows, columns = np.indices(weights.shape)
    return np.array([((columns + 0.5) * weights).sum(), ((rows + 0.5) * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("size_wh", [(400, 300), (401, 303), (399, 297), (511, 383), (385, 257)])
@pytest.mark.parametrize("scale_factor", [0.709, 0.5, 0.8])
def test_levels_show_things_where_they_say(size_wh: tuple[int, int], scale_factor: float) -> None:
    """Near the far corner, where a wrong size counts most; an odd side that is halved has a pixel of its own added."""
    centre = size_wh[0] - 61.3, size_wh[1] - 57.8
    levels = levels_of(spot(size_wh, centre, 16), 20, scale_factor)
    assert len(levels) > 3
    for level in levels:
        found = find_spot(level.pixels) * level.pixel_wh
        np.testing.assert_allclose(found, centre, rtol=0, atol=0.05 * max(level.pixel_wh))


@settings(max_examples=40)
@given(st.integers(12, 300), st.integers(12, 300), st.floats(12, 40), st.floats(0.3, 0.95), st.sampled_from([1, 2, 4]))
def test_levels_cover_the_image_and_little_more(
    width: int, height: int, min_face_size_px: float, scale_factor: float, reduction: int
) -> None:
    pyramid = ImagePyramid(np.zeros((height, width, 3), np.uint8), reduction)
    previous = 0.0
    for level in pyramid.levels(min_face_size_px=min_face_size_px * reduction, scale_factor=scale_factor):
        covered = np.multiply(level.pixels.shape[1::-1], level.pixel_wh)
        beyond = covered - pyramid.size_wh
        # A copied pixel at most for each halving, the last of which has pixels no larger than the level's.
        assert (beyond > -1e-6).all() and (beyond < 2 * max(reduction, *level.pixel_wh)).all()
        assert max(level.pixel_wh) >= previous
        previous = max(level.pixel_wh)


@pytest.mark.parametrize("image", [astronaut(), coffee()], ids=["astronaut", "coffee"])
def test_levels_are_nearer_to_the_mean_over_their_pixels_than_samples_are(image: np.ndarray) -> None:
    levels = levels_of(image, 20, 0.709)[1:]
    assert len(levels) >= 8
    for level in levels:
        size_wh = level.pixels.shape[1::-1]
        means, samples = (cv2.resize(image, size_wh, interpolation=way) for way in (cv2.INTER_AREA, cv2.INTER_LINEAR))
        difference = level.pixels.astype(int) - means
        # The copied row or column of an odd half counts for some tenths in the smallest levels.
        assert abs(difference.mean()) < 1
        assert np.abs(difference).mean() < 0.8 * np.abs(samples.astype(int) - means).mean()


def test_levels_average_what_they_shrink() -> None:
    """Single-pixel stripes become grey, whatever their phase, once a level's pixels are two of the image's."""
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, ::2] = 200
    levels = [level for level in levels_of(image, 12, 0.5) if level.pixel_wh[0] >= 2]
    assert len(levels) == 4
    for level in levels:
        np.testing.assert_allclose(level.pixels, 100, atol=1)


@pytest.mark.parametrize(("width", "height"), [(19, 500), (500, 19), (12, 12), (1, 1), (19, 19)])
def test_an_image_smaller_than_the_smallest_face_has_no_level(width: int, height: int) -> None:
    image = np.full((height, width, 3), 99, np.uint8)
    assert levels_of(image, 20, 0.709) == []
    proposals = Cascade(DetectorOptions(min_face_size_px=20)).propose(ImagePyramid(image))
    assert (proposals.boxes.shape, proposals.num_capped) == ((0, 4), 0)


FACE_PX = 400


@pytest.fixture(scope="module")
def enlarged() -> np.ndarray:
    """Astronaut at 4 times its size: the face is about 370 px wide and 450 px high."""
    return cv2.resize(astronaut(), (2048, 2048), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def unreduced(enlarged: np.ndarray) -> Detections:
    return detect(enlarged, 1)


def detect(image: np.ndarray, reduction: int) -> Detections:
    cascade = Cascade(DetectorOptions(min_face_size_px=FACE_PX / 2))
    pyramid = ImagePyramid(image, reduction)
    return cascade.refine(pyramid, cascade.propose(pyramid).boxes)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_image_has_its_faces_in_the_same_place(
    reduction: int, enlarged: np.ndarray, unreduced: Detections
) -> None:
    side = 2048 // reduction
    found = detect(cv2.resize(enlarged, (side, side), interpolation=cv2.INTER_AREA), reduction)
    assert len(found.boxes) == len(unreduced.boxes) == 1
    assert found.scores[0] == pytest.approx(unreduced.scores[0], abs=0.01)
    # Windows may differ by a step of P-Net; what half a pixel of the reduced image would make shows in the mean.
    np.testing.assert_allclose(found.boxes, unreduced.boxes, rtol=0, atol=0.02 * FACE_PX)
    shifts = found.landmarks[0] - unreduced.landmarks[0]
    assert np.abs(shifts).max() < 0.02 * FACE_PX
    assert np.abs(shifts.mean(axis=0)).max() < 0.01 * FACE_PX


def test_points_are_placed_alike_in_a_reduced_image(enlarged: np.ndarray) -> None:
    """O-Net alone, in the same box: no window differs."""
    cascade, box = Cascade(), np.array([[700, 220, 1100, 680]], np.float32)
    score, points = cascade.locate(ImagePyramid(enlarged), box)
    assert score[0] > 0.95
    for reduction in (2, 4):
        side = 2048 // reduction
        small = cv2.resize(enlarged, (side, side), interpolation=cv2.INTER_AREA)
        _, found = cascade.locate(ImagePyramid(small, reduction), box)
        np.testing.assert_allclose(found, points, rtol=0, atol=0.005 * FACE_PX)


def test_views_of_any_layout_are_as_good() -> None:
    """RGB is often a view of BGR; OpenCV would copy all of it for each patch."""
    image = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
    for view in (image[..., ::-1], image[:, ::-1], image[::2], np.asfortranarray(image), image.swapaxes(0, 1)):
        pyramid = ImagePyramid(view)
        assert pyramid.half(0).flags.c_contiguous
        np.testing.assert_array_equal(pyramid.half(0), view)
    assert ImagePyramid(image).half(0) is image
