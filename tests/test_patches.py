"""Patches: that they hold what lies in their boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemill.models.patches import cut_patches
from facemill.models.pyramid import ImagePyramid

# Side and samples per axis of R-Net's and O-Net's patches.
PATCHES = pytest.mark.parametrize(("patch_px", "samples_per_axis"), [(24, 1), (48, 2)])


def cut(image: np.ndarray, boxes: list[tuple[float, ...]], patch_px: int, samples_per_axis: int) -> np.ndarray:
    patches = cut_patches(ImagePyramid(image), np.array(boxes, float).reshape(-1, 4), patch_px, samples_per_axis)
    assert patches.shape == (len(boxes), patch_px, patch_px, 3)
    assert patches.dtype == np.uint8
    return patches


@PATCHES
@pytest.mark.parametrize(
    "box", [(1, 2, 49, 50), (10.25, 20.75, 34.25, 44.75), (1.3, 1.4, 49.1, 49.2), (30.5, 30.1, 37, 36)]
)
def test_patches_are_cut_at_float_coordinates(patch_px: int, samples_per_axis: int, box: tuple[float, ...]) -> None:
    """On a ramp the mean over an area is the value at its centre, which lies half a pixel before what its edges say."""
    ramp = 5 * np.arange(51, dtype=np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[np.newaxis, :], ramp[:, np.newaxis], np.uint8(7)), axis=-1)
    patch = cut(image, [box], patch_px, samples_per_axis)[0]
    fractions = (np.arange(patch_px) + 0.5) / patch_px
    for channel, (start, end) in enumerate([(box[0], box[2]), (box[1], box[3])]):
        places = patch[..., channel] / 5 if channel == 0 else patch[..., channel].T / 5
        # Grey values are rounded twice, a fifth of a pixel.
        np.testing.assert_allclose(places, np.tile(start + fractions * (end - start) - 0.5, (patch_px, 1)), atol=0.2)
    assert (patch[..., 2] == 7).all()


class Waves:
    """A smooth picture whose mean over any rectangle is known exactly."""

    def __init__(self, wave_px: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._phases = rng.uniform(0, 6, (2, 3))
        self._factors = 2 * np.pi / wave_px * rng.uniform(0.7, 1, (2, 3))

    def means(self, x_edges: np.ndarray, y_edges: np.ndarray) -> np.ndarray:
        """(H, W, 3) over the cells between the edges (W + 1,) and (H + 1,), grey values."""
        along_x, along_y = (
            np.diff(-np.cos(np.outer(edges, factors) + phases), axis=0) / (factors * np.diff(edges)[:, np.newaxis])
            for edges, factors, phases in zip((x_edges, y_edges), self._factors, self._phases, strict=True)
        )
        means: np.ndarray = 127.5 + 120 * along_y[:, np.newaxis] * along_x
        return means

    def image(self, size_wh: tuple[int, int]) -> np.ndarray:
        return np.rint(self.means(*(np.arange(side + 1.0) for side in size_wh))).astype(np.uint8)


@PATCHES
@settings(max_examples=60)
@given(st.floats(4, 370), st.floats(0.8, 1.25), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.integers(0, 2**32 - 1))
def test_patches_are_the_mean_over_their_pixels(
    patch_px: int, samples_per_axis: int, side_px: float, ratio: float, place: tuple[float, float], seed: int
) -> None:
    """Of a picture with waves of 24 pixels of the patch or of the image, whichever are larger."""
    size_wh, margin_px, box_wh = np.array([521, 517]), 20, np.array([side_px * ratio, side_px / ratio])
    waves = Waves(24 * max(1, *(box_wh / patch_px)), seed)
    corner = margin_px + place * (size_wh - 2 * margin_px - box_wh)
    patch = cut(waves.image((521, 517)), [(*corner, *corner + box_wh)], patch_px, samples_per_axis)[0]
    difference = patch - waves.means(*corner[:, np.newaxis] + np.outer(box_wh, np.linspace(0, 1, patch_px + 1)))
    # Bilinear interpolation flattens the crests, of 120 grey values; a small box may lie on one. Half a pixel beside it
    # there would be 10 and more.
    assert np.abs(difference).max() < 4.5
    assert np.abs(difference).mean() < 1.8


@PATCHES
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_patches_of_a_reduced_image_lie_where_they_do_in_the_whole(
    patch_px: int, samples_per_axis: int, reduction: int
) -> None:
    """Boxes count in pixels of the original."""
    waves = Waves(200, 3)
    edges = [np.arange(0, side + 1, reduction, dtype=float) for side in (640, 480)]
    pyramid = ImagePyramid(np.rint(waves.means(*edges)).astype(np.uint8), reduction)
    box = np.array([[101.3, 57.9, 363.1, 299.4]])
    patch = cut_patches(pyramid, box, patch_px, samples_per_axis)[0]
    expected = waves.means(
        *(np.linspace(start, end, patch_px + 1) for start, end in zip(box[0, :2], box[0, 2:], strict=True))
    )
    np.testing.assert_allclose(patch, expected, rtol=0, atol=3)


@PATCHES
def test_patches_average_what_they_shrink(patch_px: int, samples_per_axis: int) -> None:
    """Single-pixel stripes become grey, not stripes of another width."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[:, ::2] = 200
    boxes = [(4.0, 4.0, 388.0, 388.0), (4.5, 4.5, 388.5, 388.5), (8.0, 8.0, 200.0, 200.0)]
    np.testing.assert_allclose(cut(image, boxes, patch_px, samples_per_axis), 100, atol=1)


@PATCHES
def test_patches_beyond_the_image_are_grey(patch_px: int, samples_per_axis: int) -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    boxes = [(-24, 0, 24, 48), (500, 500, 530, 530), (-9000, -9000, -10, -10), (-40, 10, -1, 30), (10, 41, 30, 90)]
    half_outside, *outside = cut(image, boxes, patch_px, samples_per_axis)
    scale = 48 // patch_px
    np.testing.assert_allclose(half_outside[: 40 // scale, : 24 // scale - 1], 127.5, atol=0.5)
    # A sample less than half a pixel from the edge is partly grey.
    np.testing.assert_array_equal(half_outside[1 : 40 // scale - 1, 24 // scale + 1 :], 200)
    np.testing.assert_allclose(half_outside[40 // scale + 1 :], 127.5, atol=0.5)
    np.testing.assert_allclose(outside, 127.5, atol=0.5)


@pytest.mark.parametrize("shape", [(40, 40000, 3), (40000, 40, 3), (32767, 40, 3), (40, 32766, 3)])
@PATCHES
def test_patches_of_images_too_long_for_opencv(
    shape: tuple[int, int, int], patch_px: int, samples_per_axis: int
) -> None:
    image = np.zeros(shape, np.uint8)
    image[-24:, -24:] = 90
    right, bottom = shape[1], shape[0]
    boxes = [
        (right - 24, bottom - 24, right, bottom),
        (right, bottom, right + 24, bottom + 24),
        (-9000, -9000, -8000, -8000),
        (0, 0, 24, 12),
        (right - 20, bottom - 20, right - 20, bottom - 20),
    ]
    corner, beyond, before, start, empty = cut(image, boxes, patch_px, samples_per_axis)
    np.testing.assert_array_equal(corner[1:-1, 1:-1], 90)
    np.testing.assert_array_equal(empty, 90)
    np.testing.assert_array_equal(start[2:-2, 2:-2], 0)
    np.testing.assert_allclose(before, 127.5, atol=0.5)
    np.testing.assert_allclose(beyond[1:, 1:], 127.5, atol=0.5)


def test_a_long_image_is_cut_like_a_part_of_it() -> None:
    rng = np.random.default_rng(4)
    long = rng.integers(0, 256, (60, 40000, 3), dtype=np.uint8)
    corners = np.stack([rng.uniform(39800, 39990, 30), rng.uniform(-20, 50, 30)], axis=1)
    boxes = np.hstack([corners, corners + rng.uniform(1, 90, (30, 1))])
    part = ImagePyramid(np.ascontiguousarray(long[:, 39600:]))
    # The part starts at a multiple of 16 px, so that its halves are those of the whole.
    moved = boxes - [39600, 0, 39600, 0]
    for patch_px, samples_per_axis in ((24, 1), (48, 2)):
        whole = cut_patches(ImagePyramid(long), boxes, patch_px, samples_per_axis)
        expected = cut_patches(part, moved, patch_px, samples_per_axis)
        assert expected.std() > 10
        # OpenCV rounds places to 1/32 px, and noise has 255 grey values between neighbours.
        assert np.abs(whole.astype(int) - expected).max() <= 8


@PATCHES
def test_patches_of_degenerate_boxes_and_of_none(patch_px: int, samples_per_axis: int) -> None:
    image = np.full((40, 40, 3), 9, np.uint8)
    np.testing.assert_array_equal(cut(image, [(20.0, 20, 20, 20)], patch_px, samples_per_axis), 9)
    np.testing.assert_array_equal(cut(image, [(5, 20, 30, 20), (7, 3, 7, 30)], patch_px, samples_per_axis), 9)
    assert cut(image, [], patch_px, samples_per_axis).shape == (0, patch_px, patch_px, 3)


@PATCHES
def test_a_patch_does_not_depend_on_the_others(patch_px: int, samples_per_axis: int) -> None:
    rng = np.random.default_rng(6)
    image = rng.integers(0, 256, (201, 303, 3), dtype=np.uint8)
    corners = rng.uniform(-50, 300, (70, 2))
    boxes = np.hstack([corners, corners + 10 ** rng.uniform(0, 2.5, (70, 1))])
    together = cut_patches(ImagePyramid(image), boxes, patch_px, samples_per_axis)
    for index in (0, 1, 35, 69):
        alone = cut_patches(ImagePyramid(image), boxes[[index]], patch_px, samples_per_axis)
        np.testing.assert_array_equal(alone[0], together[index])
