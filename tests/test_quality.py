"""The measures of a face's picture: each on pictures made for it, then on portraits in the public domain."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import astronaut, jpeg
from PIL import Image
from skimage.color import rgb2xyz

from facemill.models import FaceDetector
from facemill.transforms.ops.canonical import OVAL, canonical_crops, canonical_matrices, inside_picture, values_in
from facemill.transforms.ops.luminance import (
    LUMINANCE_COLUMNS,
    illumination_uniformity,
    luminance_of,
    measure_luminance,
)
from facemill.transforms.ops.occlusion import eye_occlusion, mouth_occlusion
from facemill.transforms.ops.quality import QUALITY_COLUMNS, crop_out, measure_face
from facemill.transforms.ops.sharpness import measure_sharpness
from facemill.transforms.ops.warping import warp_affine

SIDE = 112
# Where insightface wants the points in 112x112, so that a canonical crop of these is the picture itself.
ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
LEFT_HALF = np.arange(SIDE) < 56


def grace_hopper() -> np.ndarray:
    """(600, 512, 3) RGB: a portrait of Grace Hopper (US Navy, public domain)."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB"))


PORTRAITS = {"astronaut": astronaut, "grace_hopper": grace_hopper}


def plain(level: int, shape: tuple[int, ...] = (SIDE, SIDE, 3)) -> np.ndarray:
    return np.full(shape, level, np.uint8)


def cut(image: np.ndarray, *landmarks: np.ndarray) -> list[np.ndarray | None]:
    """The canonical crops of the faces at these points."""
    return list(canonical_crops(image, canonical_matrices(np.array(landmarks), (image.shape[1], image.shape[0]))))


@pytest.fixture(scope="module", params=PORTRAITS)
def portrait_crop(request: pytest.FixtureRequest) -> np.ndarray:
    image = PORTRAITS[request.param]()
    face = FaceDetector(min_face_size_px=60).detect(image)[0]
    (crop,) = cut(image, face.landmarks)
    assert crop is not None
    return crop


def of_crop(crop: np.ndarray) -> dict[str, float]:
    """The quality of a face that fills its picture."""
    row = measure_face(crop, np.eye(2, 3), np.array([0, 0, 111, 111]), (SIDE, SIDE))
    return dict(zip(QUALITY_COLUMNS, row, strict=True))


class TestCanonical:
    def test_points_at_the_template_give_the_picture_itself(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        (crop,) = cut(image, ARCFACE)
        assert crop is not None
        assert np.abs(crop.astype(int) - image).max() <= 1

    def test_faces_without_a_similarity_have_no_crop_and_disturb_no_other(self) -> None:
        equal, broken = np.full((5, 2), 7.0), ARCFACE.copy()
        broken[2, 0] = np.nan
        crops = cut(plain(9), equal, ARCFACE, broken)
        assert [crop is None for crop in crops] == [True, False, True]

    @pytest.mark.parametrize("turn", [0.0, 0.4, -2.0])
    @pytest.mark.parametrize("shift", [(0, 0), (60, -40), (-70, 10), (0, 70)])
    @pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
    def test_what_lies_in_the_picture_is_what_is_white_in_a_crop_of_a_white_one(
        self, scale: float, shift: tuple[int, int], turn: float
    ) -> None:
        cos, sin = math.cos(turn), math.sin(turn)
        points = (ARCFACE - 56) @ np.array([[cos, sin], [-sin, cos]]) * scale + 75 + np.array(shift) * scale
        (matrix,) = canonical_matrices(points[None], (150, 140))
        assert matrix is not None
        crop = warp_affine(plain(255, (140, 150, 3)), matrix, (SIDE, SIDE), border="black")
        inside = inside_picture(matrix, (150, 140))
        if inside is None:
            assert (crop > 250).all()
        else:
            assert np.count_nonzero(inside != (crop[..., 0] > 127)) <= 0.005 * SIDE**2
            assert not inside.all()

    def test_a_region_that_lies_by_half_outside_has_no_values(self) -> None:
        channel, region = np.arange(SIDE**2).reshape(SIDE, SIDE), (slice(0, 2), slice(10, 14))
        inside = np.ones((SIDE, SIDE), bool)
        assert len(values_in(channel, region, None)) == len(values_in(channel, region, inside)) == 8
        inside[0] = False
        assert values_in(channel, region, inside).tolist() == [122, 123, 124, 125]
        inside[1, 10] = False
        assert values_in(channel, region, inside).tolist() == []


class TestLuminance:
    def test_luminance_is_y_of_xyz(self) -> None:
        image = np.random.default_rng(1).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        np.testing.assert_allclose(luminance_of(image), 255 * rgb2xyz(image)[..., 1], atol=0.6)

    @pytest.mark.parametrize(("level", "mean"), [(0, 0), (255, 1), (188, 0.502), (128, 0.216)])
    def test_a_plain_face(self, level: int, mean: float) -> None:
        found = of_crop(plain(level))
        assert found["luminance_mean"] == pytest.approx(mean, abs=0.002)
        assert found["luminance_variance"] == pytest.approx(0, abs=1e-6)
        assert (found["dynamic_range"], found["illumination_uniformity"]) == (0, 1)
        assert (found["under_exposure"], found["over_exposure"]) == (level == 0, level == 255)
        assert math.isnan(found["sharpness"])

    def test_one_half_black_and_one_white(self) -> None:
        luminance = np.where(LEFT_HALF, 0, 255).astype(np.uint8) * np.ones((SIDE, 1), np.uint8)
        share = np.mean(np.broadcast_to(LEFT_HALF, OVAL.shape)[OVAL])
        entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
        expected = (1 - share, share * (1 - share), share, 1 - share, entropy)
        assert measure_luminance(luminance, None) == pytest.approx(expected)
        assert illumination_uniformity(luminance, None) == 0

    @pytest.mark.parametrize(
        ("level", "column"), [(25, "under_exposure"), (26, None), (246, None), (247, "over_exposure")]
    )
    def test_the_ends_of_the_scale(self, level: int, column: str | None) -> None:
        found = dict(zip(LUMINANCE_COLUMNS, measure_luminance(plain(level, (SIDE, SIDE)), None), strict=True))
        assert [name for name in ("under_exposure", "over_exposure") if found[name]] == ([column] if column else [])

    def test_all_levels_alike_are_8_bits(self) -> None:
        luminance = np.zeros((SIDE, SIDE), np.uint8)
        luminance[OVAL] = np.arange(np.count_nonzero(OVAL)) % 256
        assert measure_luminance(luminance, None)[4] == pytest.approx(8, abs=0.001)

    def test_what_lies_outside_of_the_picture_does_not_count(self) -> None:
        inside = np.broadcast_to(~LEFT_HALF, (SIDE, SIDE))
        luminance = np.where(LEFT_HALF, 0, 200).astype(np.uint8) * np.ones((SIDE, 1), np.uint8)
        assert measure_luminance(luminance, inside)[:3] == pytest.approx((200 / 255, 0, 0))
        assert math.isnan(illumination_uniformity(luminance, inside))
        assert np.isnan(measure_luminance(luminance, np.zeros((SIDE, SIDE), bool))).all()

    def test_light_from_a_side(self, portrait_crop: np.ndarray) -> None:
        shade = np.linspace(1, 0.4, SIDE)[None, :, None]
        before, after = of_crop(portrait_crop), of_crop((portrait_crop * shade).astype(np.uint8))
        assert after["illumination_uniformity"] < before["illumination_uniformity"] - 0.1
        assert after["luminance_mean"] < before["luminance_mean"]


def enlarged(crop: np.ndarray, factor: float) -> np.ndarray:
    """As a crop of a face that is smaller by this factor."""
    side = round(SIDE * factor)
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def noisy(crop: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, crop.shape)
    return np.clip(crop + noise, 0, 255).astype(np.uint8)


def as_jpeg(crop: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg(crop, quality=quality))))


class TestSharpness:
    @pytest.mark.parametrize(
        ("worsen", "steps"),
        [
            (lambda crop, sigma: cv2.GaussianBlur(crop, (0, 0), sigma), (0.6, 1, 1.5, 2, 3, 4)),
            (enlarged, (0.7, 0.5, 0.35, 0.25, 0.15)),
            (noisy, (5, 10, 20, 40)),
        ],
        ids=["blur", "size", "noise"],
    )
    def test_it_falls_with_each_step(
        self, worsen: Callable[[np.ndarray, float], np.ndarray], steps: tuple[float, ...], portrait_crop: np.ndarray
    ) -> None:
        found = [of_crop(crop)["sharpness"] for crop in (portrait_crop, *(worsen(portrait_crop, s) for s in steps))]
        assert (np.diff(found) < 0).all(), found

    @pytest.mark.parametrize("quality", [20, 10, 5])
    def test_strong_compression_takes_some(self, quality: int, portrait_crop: np.ndarray) -> None:
        assert of_crop(as_jpeg(portrait_crop, quality))["sharpness"] < of_crop(portrait_crop)["sharpness"]

    @pytest.mark.parametrize("contrast", [0.7, 0.4])
    def test_contrast_and_brightness_are_no_matter(self, contrast: float, portrait_crop: np.ndarray) -> None:
        paler = np.clip((portrait_crop - 128.0) * contrast + 120, 0, 255).round().astype(np.uint8)
        assert of_crop(paler)["sharpness"] == pytest.approx(of_crop(portrait_crop)["sharpness"], rel=0.05)

    def test_an_edge_and_the_same_edge_blurred(self) -> None:
        """Of a straight edge only the slopes count: a Gaussian of sigma s has the energy 1 / (2 s sqrt(pi))."""
        edge = np.where(LEFT_HALF, 60.0, 160.0) * np.ones((SIDE, 1))
        found = [measure_sharpness(cv2.GaussianBlur(edge, (0, 0), s).astype(np.uint8), None) for s in (2, 4)]
        # Blurred once more by 2 px: sigma becomes the root of s^2 + 4.
        np.testing.assert_allclose(found, [(math.hypot(s, 2) / s) ** 0.5 for s in (2, 4)], rtol=0.03)

    def test_the_edge_of_the_picture_is_no_detail(self, portrait_crop: np.ndarray) -> None:
        luma = cv2.cvtColor(cv2.GaussianBlur(portrait_crop, (0, 0), 3), cv2.COLOR_RGB2GRAY)
        cut = luma.copy()
        cut[100:] = 0
        inside = np.arange(SIDE)[:, None] < np.full(SIDE, 100)
        whole = measure_sharpness(luma, None)
        assert measure_sharpness(cut, inside) == pytest.approx(whole, rel=0.1)
        assert measure_sharpness(cut, None) > 1.3 * whole


def paint(crop: np.ndarray, rows: slice, columns: slice, colour: tuple[int, int, int]) -> np.ndarray:
    painted = crop.copy()
    painted[rows, columns] = colour
    return painted


class TestOcclusion:
    @pytest.mark.parametrize("colour", [(240, 242, 245), (120, 160, 210), (20, 20, 22)], ids=["white", "blue", "black"])
    def test_a_face_mask(self, colour: tuple[int, int, int], portrait_crop: np.ndarray) -> None:
        masked = of_crop(paint(portrait_crop, slice(72, 112), slice(20, 92), colour))
        assert of_crop(portrait_crop)["mouth_occlusion"] < 0.3
        assert masked["mouth_occlusion"] > 0.9
        assert masked["eye_occlusion"] < 0.4

    @pytest.mark.parametrize("columns", [slice(22, 90), slice(22, 54), slice(58, 90)], ids=["both", "left", "right"])
    def test_dark_glasses_or_a_patch(self, columns: slice, portrait_crop: np.ndarray) -> None:
        hidden = of_crop(paint(portrait_crop, slice(42, 64), columns, (25, 22, 24)))
        assert of_crop(portrait_crop)["eye_occlusion"] < 0.3
        assert hidden["eye_occlusion"] > 0.6
        assert hidden["mouth_occlusion"] < 0.3

    def test_a_picture_without_colours_gives_no_hint_of_a_mask(self, portrait_crop: np.ndarray) -> None:
        grey = cv2.cvtColor(cv2.cvtColor(portrait_crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        assert of_crop(grey)["mouth_occlusion"] == 0
        assert of_crop(paint(grey, slice(72, 112), slice(20, 92), (240, 240, 240)))["mouth_occlusion"] == 0

    def test_by_hand(self) -> None:
        redness, luma = plain(148, (SIDE, SIDE)), plain(120, (SIDE, SIDE))
        redness[80:] = 133  # 5 of the 20 that there are between the brows
        luma[40:64, :56] = 30
        assert mouth_occlusion(redness, None) == pytest.approx(0.75)
        assert eye_occlusion(luma, None) == pytest.approx(0.75)
        unseen_left = np.broadcast_to(~LEFT_HALF, (SIDE, SIDE))
        assert eye_occlusion(luma, unseen_left) == 0
        assert math.isnan(eye_occlusion(luma, np.zeros((SIDE, SIDE), bool)))
        assert math.isnan(mouth_occlusion(redness, np.arange(SIDE)[:, None] < np.full(SIDE, 90)))


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ((10, 10, 20, 20), 0),
        ((-0.5, -0.5, 99.5, 49.5), 0),
        ((-10.5, 0, 9.5, 10), 0.5),
        ((89.5, 39.5, 109.5, 59.5), 0.75),
        ((-100.5, 0, 199.5, 10), 2 / 3),
        ((200, 0, 210, 10), 1),
        ((-30, 60, -10, 80), 1),
        ((10, 10, 10, 20), math.nan),
        ((20, 20, 10, 10), math.nan),
        ((math.nan, 0, 10, 10), math.nan),
        ((0, 0, math.inf, 10), 1),
    ],
)
def test_crop_out_by_hand(box: tuple[float, ...], share: float) -> None:
    assert crop_out(np.array(box), (100, 50)) == pytest.approx(share, abs=1e-12, nan_ok=True)


def test_no_faces() -> None:
    assert canonical_matrices(np.zeros((0, 5, 2), np.float32), (9, 9)) == []
    assert list(canonical_crops(plain(0), [])) == []


def test_a_face_without_a_crop_is_measured_by_its_box_alone() -> None:
    row = measure_face(None, None, np.array([-10.5, 0, 9.5, 10]), (100, 50))
    found = dict(zip(QUALITY_COLUMNS, row, strict=True))
    assert found.pop("crop_out") == 0.5
    assert np.isnan(list(found.values())).all()


coordinates = st.floats(width=32) | st.floats(-300, 300, width=32)


@given(
    boxes=hnp.arrays(np.float32, (3, 4), elements=coordinates),
    landmarks=hnp.arrays(np.float32, (3, 5, 2), elements=coordinates),
    level=st.integers(0, 255),
)
def test_whatever_the_points_each_measure_is_nan_or_in_its_range(
    boxes: np.ndarray, landmarks: np.ndarray, level: int
) -> None:
    image = np.random.default_rng(level).integers(0, 1 + level, (60, 70, 3), dtype=np.uint8)
    matrices = canonical_matrices(landmarks, (70, 60))
    crops = canonical_crops(image, matrices)
    rows = [measure_face(*face, (70, 60)) for face in zip(crops, matrices, boxes, strict=True)]
    for name, values in zip(QUALITY_COLUMNS, np.array(rows).T, strict=True):
        high = {"dynamic_range": 8, "sharpness": 10, "luminance_variance": 0.25}.get(name, 1)
        known = values[~np.isnan(values)]
        assert ((known >= 0) & (known <= high + 1e-6)).all(), name
