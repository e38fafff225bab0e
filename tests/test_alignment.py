from __future__ import annotations

import re
import tracemalloc
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
from aligned import align_face
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.transform import AffineTransform, SimilarityTransform, warp

from facemill.models.errors import ConfigError
from facemill.transforms.ops.alignment import (
    AlignOptions,
    CropError,
    estimate_similarity,
    transform_points,
)
from facemill.transforms.ops.templates import get_template
from facemill.transforms.ops.warping import BORDERS, Border, warp_affine

ARCFACE = get_template("arcface112")
NUMPY_PAD = {
    "black": {"mode": "constant", "constant_values": 0},
    "white": {"mode": "constant", "constant_values": 255},
    "replicate": {"mode": "edge"},
    "reflect": {"mode": "symmetric"},
}


def similarity(scale: float, angle_deg: float, shift_xy: tuple[float, float]) -> np.ndarray:
    cos, sin = scale * np.cos(np.radians(angle_deg)), scale * np.sin(np.radians(angle_deg))
    return np.array([[cos, -sin, shift_xy[0]], [sin, cos, shift_xy[1]]])


def about(scale: float, angle_deg: float, center_xy: tuple[float, float]) -> np.ndarray:
    """The similarity that puts `center_xy` into the middle of a 112x112 crop."""
    matrix = similarity(scale, angle_deg, (0, 0))
    matrix[:, 2] = 55.5 - matrix[:, :2] @ center_xy
    return matrix


def skimage_similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    transform = SimilarityTransform()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `estimate` gives way to `from_estimate`, which is new
        assert transform.estimate(src, dst)
    return transform.params[:2]


def noise_image(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_image(height: int, width: int, *, sigma_px: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(noise_image(height, width).astype(np.float32), (0, 0), sigma_px)
    return np.rint(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)).astype(np.uint8)


def test_arcface_template_is_the_96x112_one_moved_by_8_px() -> None:
    sphereface = [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    np.testing.assert_allclose(ARCFACE.points, np.add(sphereface, [8, 0]), atol=1e-9)
    assert ARCFACE.size_wh == (112, 112)
    assert not ARCFACE.points.flags.writeable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"template": "arcface"},
            "template must be one of arcface112, sphereface96x112, insight128, facenet160, facenet160_pytorch, "
            "ffhq256, ffhq512, ffhq1024, square256, got 'arcface'; did you mean arcface112?",
        ),
        ({"border": "mirror"}, "border must be one of black, white, replicate, reflect, got 'mirror'"),
    ],
)
def test_unknown_names_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AlignOptions(**options)
    assert str(caught.value) == message


def test_estimate_similarity_by_hand() -> None:
    # A quarter turn from x to y, twice the length, then 3 to the right.
    matrix = estimate_similarity(np.array([[0, 0], [1, 0]]), np.array([[3, 0], [3, 2]]))
    np.testing.assert_allclose(matrix, [[0, -2, 3], [2, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5, 68])
@pytest.mark.parametrize("noise_px", [0, 1, 30])
@pytest.mark.parametrize("mirrored", [False, True])
def test_estimate_similarity_equals_skimage(count: int, noise_px: float, mirrored: bool) -> None:
    rng = np.random.default_rng(count)
    src = rng.uniform(0, 100, (count, 2))
    dst = transform_points(similarity(0.7, 130, (40, -9)), src) + rng.normal(0, noise_px, (count, 2))
    if mirrored:
        dst[:, 0] *= -1
    matrix = estimate_similarity(src, dst)
    np.testing.assert_allclose(matrix, skimage_similarity(src, dst), atol=1e-8)
    assert np.linalg.det(matrix[:, :2]) > 0


@given(
    points=hnp.arrays(np.float64, (5, 2), elements=st.floats(-1e3, 1e3), unique=True),
    scale=st.floats(1e-3, 1e3),
    angle_deg=st.floats(-180, 180),
    shift=st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
)
def test_estimate_similarity_recovers_any_similarity(
    points: np.ndarray, scale: float, angle_deg: float, shift: tuple[float, float]
) -> None:
    points = points + ARCFACE.points * 10  # no cluster within rounding distance
    expected = similarity(scale, angle_deg, shift)
    moved = transform_points(expected, points)
    before = points.copy(), moved.copy()
    matrix = estimate_similarity(points, moved)
    np.testing.assert_allclose(transform_points(matrix, points), moved, atol=1e-7 * max(1.0, scale))
    assert np.array_equal(points, before[0]) and np.array_equal(moved, before[1])


def test_estimate_similarity_takes_collinear_points() -> None:
    line = np.linspace([3, 5], [11, 21], 5)
    expected = similarity(1.5, -40, (7, 8))
    np.testing.assert_allclose(estimate_similarity(line, transform_points(expected, line)), expected, atol=1e-12)


SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        (np.full((5, 2), 0.1), ARCFACE.points, "all equal"),
        (np.full((5, 2), 1234.567, np.float32), ARCFACE.points, "all equal"),
        (ARCFACE.points, np.full((5, 2), 7.3), "all equal"),
        (SQUARE, SQUARE * [-1, 1], "no rotation"),
        (ARCFACE.points * np.nan, ARCFACE.points, "finite"),
        (ARCFACE.points, ARCFACE.points * np.inf, "finite"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "shape"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "shape"),
        (np.zeros((5, 3)), np.zeros((5, 3)), "shape"),
        (np.zeros((5, 2)), np.zeros((4, 2)), "shape"),
    ],
)
def test_estimate_similarity_refuses_what_determines_none(src: np.ndarray, dst: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_similarity(src, dst)


@pytest.mark.parametrize("shape", [(0, 2), (2,), (3, 2), (4, 5, 2)])
def test_transform_points_keeps_leading_axes(shape: tuple[int, ...]) -> None:
    points = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    moved = transform_points(np.array([[0, -2, 3], [2, 0, 1]]), points)
    np.testing.assert_array_equal(moved, np.stack([3 - 2 * points[..., 1], 2 * points[..., 0] + 1], axis=-1))


@pytest.mark.parametrize("scale", [0.1, 0.13, 0.3, 0.49, 0.51, 0.8, 0.99, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("angle_deg", [0, 23, -135])
def test_landmarks_arrive_within_a_tenth_of_a_pixel(scale: float, angle_deg: float) -> None:
    side = round(300 / scale)
    to_crop = about(scale, angle_deg, (side * 0.52 + 0.3, side * 0.47 + 0.1))
    landmarks = transform_points(cv2.invertAffineTransform(to_crop), ARCFACE.points)
    # Blobs of 2 px in the crop: exp(-(x^2 + y^2)) is a product of one function of x and one of y.
    by_x, by_y = np.exp(-((np.arange(side) - landmarks.T[..., None]) ** 2) * scale**2 / 8)
    image = 250 * by_y.T @ by_x
    crop = align_face(np.repeat(np.rint(image).astype(np.uint8)[..., None], 3, axis=2), landmarks, ARCFACE)
    for expected in ARCFACE.points:
        left, top = np.rint(expected).astype(int) - 7
        patch = crop[top : top + 15, left : left + 15, 0].astype(float)
        patch[patch < 8] = 0
        found = [
            (patch.sum(0) * np.arange(left, left + 15)).sum() / patch.sum(),
            (patch.sum(1) * np.arange(top, top + 15)).sum() / patch.sum(),
        ]
        np.testing.assert_allclose(found, expected, atol=0.1)


@pytest.mark.parametrize("scale", [0.07, 0.25, 0.4, 0.7, 1.0, 2.5])
def test_crop_of_a_smooth_picture_equals_skimage(scale: float) -> None:
    image = smooth_image(900, 1000, sigma_px=max(2, 2 / scale))
    matrix = about(scale, 31, (500.4, 451.7))
    inverse = AffineTransform(np.vstack([matrix, [0, 0, 1]])).inverse
    expected = warp(image, inverse, output_shape=(112, 112), order=1, preserve_range=True)
    crop = warp_affine(image, matrix, (112, 112)).astype(float)
    inside = warp(np.ones((900, 1000)), inverse, output_shape=(112, 112), order=1) == 1
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert inside.sum() > 3000
    # What is left is the mean over a crop's pixel against the value at its centre.
    assert np.abs(crop - expected)[inside].max() < 6
    assert np.abs(crop - expected)[inside].mean() < 1.5


@pytest.mark.parametrize("scale", [0.1, 0.19, 0.33, 0.45, 0.5, 0.63, 0.8])
@pytest.mark.parametrize("angle_deg", [0, 17])
def test_what_the_crop_cannot_show_does_not_alias(scale: float, angle_deg: float) -> None:
    """A checkerboard of single pixels, and stripes of 1.5 times the crop's highest frequency, fade into grey."""
    side = round(200 / scale)
    y, x = np.mgrid[:side, :side]
    checkerboard = 255.0 * ((x + y) % 2)
    stripes = 127.5 + 127.5 * np.sin(2 * np.pi * min(0.75 * scale, 0.5) * x + 0.5)
    for pattern, most in ((checkerboard, 15), (stripes, 28)):
        image = np.repeat(np.rint(pattern).astype(np.uint8)[..., None], 3, axis=2)
        matrix = about(scale, angle_deg, (side / 2 + 0.2, side / 2 + 0.4))
        crop = warp_affine(image, matrix, (112, 112))[30:-30, 30:-30]
        assert crop.std() < most
        assert abs(crop.mean() - 127.5) < 4
    # cv2 alone takes the pixels around every 1 / scale-th.
    plain = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)[30:-30, 30:-30]
    assert plain.std() > 33


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("offset_xy", [(0, 0), (2, 3), (-2, 1), (9, -9), (25, 0), (-40, 33)])
def test_border_rules_equal_numpy_pad(border: Border, offset_xy: tuple[int, int]) -> None:
    image = noise_image(7, 6)
    padded = np.pad(image, ((60, 60), (60, 60), (0, 0)), **NUMPY_PAD[border])
    x, y = 60 - offset_xy[0], 60 - offset_xy[1]
    crop = warp_affine(image, similarity(1, 0, offset_xy), (8, 5), border=border)
    np.testing.assert_array_equal(crop, padded[y : y + 5, x : x + 8])


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("factor", [2, 4, 10])
def test_shrinking_across_the_border_equals_block_means_of_numpy_pad(border: Border, factor: int) -> None:
    image = smooth_image(20 * factor, 30 * factor, sigma_px=2 * factor)
    padded = np.pad(image, ((8 * factor,) * 2, (8 * factor,) * 2, (0, 0)), **NUMPY_PAD[border]).astype(float)
    expected = padded.reshape(36, factor, 46, factor, 3).mean(axis=(1, 3))
    # The pixel X of the crop covers the pixels factor * X ... factor * X + factor - 1 of the padded picture.
    shift = 8 + 0.5 / factor - 0.5
    crop = warp_affine(image, similarity(1 / factor, 0, (shift, shift)), (46, 36), border=border)
    error = np.abs(crop - expected)
    assert error.mean() < 1.5
    if border in ("replicate", "reflect"):
        assert error.max() < 8


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    ("scale", "center_xy"),
    [
        (0.02, (50, 40)),
        (0.5, (-20, 40)),
        (1, (99, 79)),
        (500, (50, 40)),
        (1e6, (50, 40)),
    ],
)
def test_any_face_gives_a_crop_of_the_right_size(border: Border, scale: float, center_xy: tuple[float, float]) -> None:
    landmarks = transform_points(cv2.invertAffineTransform(about(scale, 5, center_xy)), ARCFACE.points)
    crop = align_face(noise_image(80, 100), landmarks, ARCFACE, border=border)
    assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8


@pytest.mark.parametrize(
    ("scale", "center_xy"),
    [(0.012, (50, 40)), (1e-30, (50, 40)), (0.01, (-1e5, 1e5)), (0.5, (-1e6, 40)), (1, (-57, 40)), (1, (50, 140))],
)
def test_a_face_that_shows_nothing_of_the_picture_gives_no_crop(scale: float, center_xy: tuple[float, float]) -> None:
    landmarks = transform_points(cv2.invertAffineTransform(about(scale, 0, center_xy)), ARCFACE.points)
    with pytest.raises(CropError, match="arcface112: the crop would show nothing of the picture"):
        align_face(noise_image(80, 100), landmarks, ARCFACE)


@pytest.mark.parametrize(("border", "value"), [("black", 0), ("white", 255), ("replicate", None), ("reflect", None)])
@pytest.mark.parametrize(("scale", "center_xy"), [(1, (-3e4, -3e4)), (0.5, (-1e6, 40)), (1e-30, (9e33, 40))])
def test_what_lies_too_far_away_to_count_its_pixels(
    border: Border, value: int | None, scale: float, center_xy: tuple[float, float]
) -> None:
    matrix = about(scale, 5, center_xy)
    if value is None:
        with pytest.raises(ValueError, match="too far away"):
            warp_affine(noise_image(80, 100), matrix, (112, 112), border=border)
    else:
        assert (warp_affine(noise_image(80, 100), matrix, (112, 112), border=border) == value).all()


@pytest.mark.parametrize(("border", "value"), [("black", 0), ("white", 255)])
def test_a_face_entirely_outside_is_border_only(border: Border, value: int) -> None:
    matrix = about(0.3, 12, (2000, -900))
    assert (warp_affine(noise_image(80, 100), matrix, (112, 112), border=border) == value).all()


@given(
    scale=st.floats(0.05, 3),
    angle_deg=st.floats(-180, 180),
    center_xy=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
    border=st.sampled_from(["replicate", "reflect"]),
)
def test_a_picture_of_one_colour_goes_on_beyond_its_border(
    scale: float, angle_deg: float, center_xy: tuple[float, float], border: Border
) -> None:
    image = np.full((83, 97, 3), (200, 30, 77), np.uint8)
    crop = warp_affine(image, about(scale, angle_deg, center_xy), (112, 112), border=border)
    assert (crop == (200, 30, 77)).all()


def test_a_crop_depends_on_its_region_of_the_picture_alone() -> None:
    image = noise_image(260, 240)
    scene = noise_image(700, 900, seed=1)
    scene[300:560, 400:640] = image
    inner, outer = about(0.8, 25, (120, 130)), about(0.8, 25, (520, 430))
    difference = warp_affine(image, inner, (112, 112)).astype(int) - warp_affine(scene, outer, (112, 112))
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("scale", [2, 0.6, 0.2])
def test_memory_does_not_grow_with_the_picture(scale: float) -> None:
    image = np.zeros((4000, 6000, 3), np.uint8)
    matrix = about(scale, 10, (3000, 2000))
    tracemalloc.start()
    try:
        warp_affine(image, matrix, (112, 112))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5e6


@pytest.mark.parametrize("scale", [0.2, 0.7, 2])
def test_align_face_takes_any_layout_and_leaves_it_alone(scale: float) -> None:
    image = noise_image(300, 400)
    image.setflags(write=False)
    before = image.copy()
    landmarks = transform_points(cv2.invertAffineTransform(about(scale, 3, (200, 150))), ARCFACE.points)
    landmarks.setflags(write=False)
    expected = align_face(image, landmarks, ARCFACE)
    np.testing.assert_array_equal(image, before)
    flipped = np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_array_equal(align_face(flipped, landmarks, ARCFACE), expected)
    np.testing.assert_array_equal(align_face(np.asfortranarray(image), landmarks, ARCFACE), expected)


def test_align_face_refuses_landmarks_in_one_point() -> None:
    with pytest.raises(ValueError, match="all equal"):
        align_face(noise_image(20, 20), np.full((5, 2), 7, np.float32), ARCFACE)


@given(
    landmarks=hnp.arrays(np.float32, (5, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    border=st.sampled_from(BORDERS),
)
def test_align_face_gives_a_crop_or_a_value_error(landmarks: np.ndarray, border: Border) -> None:
    try:
        crop = align_face(np.full((9, 14, 3), 77, np.uint8), landmarks, ARCFACE, border=border)
    except ValueError as error:
        assert re.search(r"no similarity is determined|shows? nothing of the picture", str(error))
    else:
        assert crop.shape == (112, 112, 3)
        if border in ("replicate", "reflect"):
            assert (crop == 77).all()


def test_a_face_far_to_the_right_in_a_panorama() -> None:
    image = np.zeros((130, 40_000, 3), np.uint8)
    image[9:121, 39_000:39_112] = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    crop = align_face(image, ARCFACE.points + np.array([39_000, 9]), ARCFACE)
    np.testing.assert_array_equal(crop, image[9:121, 39_000:39_112])
