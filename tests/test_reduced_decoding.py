"""Pictures that are decoded only as large as needed: where their pixels lie, and that the faces stay where they are."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import cv2
import numpy as np
import pytest
from apache_beam import DoFn
from pictures import astronaut, coffee
from PIL import Image

from facemill.models.errors import ConfigError
from facemill.models.options import DetectorOptions, smallest_face_px
from facemill.transforms.align import _AlignFn
from facemill.transforms.decode import _DecodeFn
from facemill.transforms.detect import _DetectFn
from facemill.transforms.elements import Batch, Element
from facemill.transforms.judge import _JudgeFn
from facemill.transforms.landmarks import _LandmarksFn
from facemill.transforms.ops.alignment import AlignOptions, transform_points
from facemill.transforms.ops.crops import WriteOptions
from facemill.transforms.ops.cutting import largest_scale
from facemill.transforms.ops.decoding import ImageHeader, decode_at, read_header
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import (
    ForDetection,
    PixelGrid,
    crop_reduction,
    detection_reduction,
    landmark_reduction,
    pixel_grid,
)
from facemill.transforms.ops.verdict import JudgeOptions

PNG = WriteOptions(image_format="png")

# EXIF 2.32, tag 0x0112: how a picture is to be stored so that a reader turns it upright.
STORE = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def stored_jpeg(upright: np.ndarray, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored = np.ascontiguousarray(STORE[orientation](upright))
    Image.fromarray(stored).save(buffer, "JPEG", **{"quality": 95, "exif": exif.tobytes(), **options})
    return buffer.getvalue()


def enlarged(size_wh: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(astronaut()).resize(size_wh, Image.Resampling.BICUBIC))


def record_of(data: bytes, index: int = 0) -> ImageRecord:
    return ImageRecord(index, f"in/{index}.jpg", f"in/{index}.jpg", "", data=data, num_bytes=len(data))


def crops_of(record: ImageRecord) -> list[np.ndarray]:
    assert record.faces is not None
    return [
        np.asarray(Image.open(io.BytesIO(content))) for contents in record.faces.crops for content in contents or ()
    ]


def steps(policy: Any, detector: DetectorOptions) -> list[DoFn]:
    chain = [
        _DecodeFn(DecodeOptions(policy=policy), 1 << 22, ForDetection(detector)),
        _DetectFn(detector),
        _LandmarksFn(detector, False),
        _JudgeFn(JudgeOptions()),
        _AlignFn(AlignOptions(), PNG),
    ]
    for step in chain:
        step.setup()
    return chain


def run_steps(data: bytes, policy: Any, detector: DetectorOptions) -> list[ImageRecord]:
    """The record after each step: decoded, detected, located, judged, aligned."""
    element: Element = Batch("unit", (record_of(data),))
    after = []
    for step in steps(policy, detector):
        (element,) = step.process(element)
        assert isinstance(element, Batch)
        after.append(element.records[0])
    assert after[-1].failure is None
    return after


@pytest.mark.parametrize(
    ("size_px", "share", "image_wh", "expected_px"),
    [(20, 0.0, (4000, 3000), 20), (20, 0.05, (4000, 3000), 150), (20, 0.05, (300, 9000), 20), (40, 0.5, (100, 90), 45)],
)
def test_of_the_two_limits_of_a_face_the_larger_counts(
    size_px: float, share: float, image_wh: tuple[int, int], expected_px: float
) -> None:
    assert smallest_face_px(DetectorOptions(min_face_size_px=size_px, min_face_share=share), image_wh) == expected_px


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), "0.1", True])
def test_an_impossible_share_is_refused(share: Any) -> None:
    with pytest.raises(ConfigError, match=r"min_face_share must lie in \[0, 1\)"):
        DetectorOptions(min_face_share=share)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy must be one of full, reduced, got 'half'"):
        DecodeOptions(policy="half")  # type: ignore[arg-type]


@pytest.mark.parametrize(("face_px", "expected"), [(12, 1), (71, 1), (72, 2), (143, 2), (144, 4), (288, 8), (9000, 8)])
def test_the_smallest_face_rules_the_reduction(face_px: float, expected: int) -> None:
    assert detection_reduction(face_px) == expected


@pytest.mark.parametrize(
    ("sides_px", "expected"), [((), 8), ((216, 900), 8), ((900, 215), 4), ((54,), 2), ((53, 9e3), 1)]
)
def test_the_smallest_candidate_rules_what_its_points_are_placed_in(sides_px: tuple[float, ...], expected: int) -> None:
    boxes = np.array([[7, 8, 7 + side, 8 + side] for side in sides_px], np.float32).reshape(-1, 4)
    assert landmark_reduction(boxes) == expected


@pytest.mark.parametrize(("scale", "expected"), [(3.0, 1), (0.51, 1), (0.5, 2), (0.25, 4), (0.126, 4), (0.01, 8)])
def test_a_crop_is_never_larger_than_what_it_is_cut_from(scale: float, expected: int) -> None:
    small, large = (np.array([[size, 0, 3], [0, size, 4]]) for size in (scale / 2, scale))
    assert crop_reduction(largest_scale([None, (small,), (small, large)])) == expected


def test_without_a_crop_nothing_is_needed() -> None:
    assert crop_reduction(largest_scale([None])) == crop_reduction(largest_scale([])) == 8


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
def test_a_reduced_picture_is_about_the_mean_over_its_pixels(reduction: int, options: dict[str, Any]) -> None:
    upright = enlarged((512, 384))
    data = stored_jpeg(upright, **options)
    image, reached = decode_at(data, read_header(data), reduction=reduction)
    assert reached == reduction
    means = cv2.resize(upright, (512 // reduction, 384 // reduction), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - means).mean() < 3


@pytest.mark.parametrize(("width", "height"), [(203, 157), (200, 160), (17, 9), (1, 1)])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_sides_are_rounded_up(width: int, height: int, reduction: int) -> None:
    data = stored_jpeg(np.zeros((height, width, 3), np.uint8), 6)
    assert read_header(data) == ImageHeader("JPEG", width, height, 6)
    image = decode_at(data, read_header(data), reduction=reduction).image
    assert image.shape == (-(-height // reduction), -(-width // reduction), 3)


def test_other_files_are_decoded_in_full() -> None:
    buffer = io.BytesIO()
    Image.fromarray(coffee()).convert("CMYK").save(buffer, "JPEG")
    data = buffer.getvalue()
    image, reduction = decode_at(data, read_header(data), reduction=4)
    assert (reduction, image.shape) == (1, coffee().shape)


def centre_of_spot(image: np.ndarray) -> np.ndarray:
    """x and y of the middle of the one bright spot on black, px."""
    weights = image[..., 1].astype(np.float64)
    weights[weights < 20] = 0
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_spot_stays_where_it_is_at_any_size_and_turn(reduction: int, orientation: int) -> None:
    # 203 and 157 are 3 and 5 more than multiples of 8, so both axes end in a part of a pixel.
    x, y = np.meshgrid(np.arange(203), np.arange(157))
    spot = np.array([61.3, 98.8])
    upright = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * 12**2)) * 255
    data = stored_jpeg(np.stack([upright] * 3, axis=-1).astype(np.uint8), orientation)
    header = read_header(data)
    assert (header.width, header.height) == (203, 157)
    image = decode_at(data, header, reduction=reduction).image
    record = dataclasses.replace(
        record_of(data), width=203, height=157, exif_orientation=orientation, image=image, reduction=reduction
    )
    to_original = pixel_grid(record).matrix_from_original(np.eye(2, 3))
    assert transform_points(to_original, centre_of_spot(image)) == pytest.approx(spot, abs=0.15 * reduction)


def test_the_grid_of_a_full_picture_changes_nothing() -> None:
    points = np.array([[1.1, 2.2], [1e-9, -3.0]], np.float32)
    grid = pixel_grid(ImageRecord(0, "", "", "", image=np.zeros((5, 7, 3), np.uint8)))
    assert grid == PixelGrid()
    assert grid.matrix_from_original(points) is points
    assert grid.to_corner(points) is points
    assert grid.from_corner(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_boxes_and_points_are_moved_to_the_corner_and_back() -> None:
    grid = PixelGrid(4, (-3, -1))
    boxes, points = np.array([[0, 0, 10, 20]], np.float32), np.zeros((2, 5, 2), np.float32)
    np.testing.assert_array_equal(grid.to_corner(boxes), [[3, 1, 13, 21]])
    np.testing.assert_array_equal(grid.from_corner(grid.to_corner(points)), points)
    assert grid.to_corner(boxes).dtype == np.float32


# Read off the 512 x 512 photograph by eye; good to about 3 px.
ASTRONAUT_POINTS = np.array([[204.6, 101.1], [246.9, 102.9], [225, 127], [204.3, 140.3], [244, 141.4]])
# Odd sides, and the face of the 512 x 512 picture is 92 x 112 px: here about 279 x 340.
LARGE_WH = (1555, 1549)
DETECTOR = DetectorOptions(min_face_share=0.1)


@pytest.fixture(scope="module")
def in_full() -> ImageRecord:
    return run_steps(stored_jpeg(enlarged(LARGE_WH)), "full", DETECTOR)[-1]


@pytest.mark.parametrize("orientation", STORE)
def test_faces_and_crops_of_a_reduced_picture_are_those_of_the_full_one(orientation: int, in_full: ImageRecord) -> None:
    decoded, _, located, _, aligned = run_steps(stored_jpeg(enlarged(LARGE_WH), orientation), "reduced", DETECTOR)
    assert (decoded.reduction, located.reduction) == (4, 4)
    assert (decoded.width, decoded.height) == LARGE_WH
    assert in_full.faces is not None
    assert aligned.faces is not None
    assert len(in_full.faces) == len(aligned.faces) == 1
    eye_distance_px = np.linalg.norm(np.subtract(*in_full.faces.landmarks[0, :2]))
    # A shift by a forgotten origin would be up to 3 px, in all points alike.
    shifts = aligned.faces.landmarks[0] - in_full.faces.landmarks[0]
    assert np.abs(shifts).max() < 0.06 * eye_distance_px
    assert np.abs(shifts.mean(axis=0)).max() < 3
    assert aligned.faces.reasons == in_full.faces.reasons == ("",)
    (crop,), (expected,) = crops_of(aligned), crops_of(in_full)
    assert np.abs(crop.astype(int) - expected).mean() < 10


def test_the_quality_of_a_reduced_picture_is_that_of_the_full_one(in_full: ImageRecord) -> None:
    *_, reduced = run_steps(stored_jpeg(enlarged(LARGE_WH), 6), "reduced", DETECTOR)
    assert in_full.faces is not None and in_full.faces.quality is not None
    assert reduced.faces is not None and reduced.faces.quality is not None
    (expected,), (found,) = in_full.faces.quality, reduced.faces.quality
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.02)


def test_a_crop_is_cut_from_a_picture_that_is_large_enough() -> None:
    *_, located, judged, aligned = run_steps(stored_jpeg(enlarged(LARGE_WH)), "reduced", DETECTOR)
    # A face of 279 px fills most of the 112 px of a crop: 1/2 is enough, 1/4 is not. Quality is measured in one.
    assert (located.reduction, judged.reduction) == (4, 2)
    assert judged.data is not None
    assert (aligned.image, aligned.data) == (None, None)
    (crop,) = crops_of(aligned)
    sharpness = cv2.Laplacian(crop, cv2.CV_64F).var()
    coarse = dataclasses.replace(located, data=None, width=LARGE_WH[0] // 4, height=LARGE_WH[1] // 4, reduction=1)
    assert judged.faces is not None
    coarse = dataclasses.replace(coarse, faces=dataclasses.replace(judged.faces, landmarks=judged.faces.landmarks / 4))
    align = _AlignFn(AlignOptions(), PNG)
    (element,) = align.process(Batch("unit", (coarse,)))
    assert isinstance(element, Batch)
    (blurred,) = crops_of(element.records[0])
    assert sharpness > 1.1 * cv2.Laplacian(blurred, cv2.CV_64F).var()


def test_a_picture_without_faces_is_never_decoded_in_full() -> None:
    scene = np.asarray(Image.fromarray(coffee()).resize((1800, 1200), Image.Resampling.BICUBIC))
    decoded, detected, located, judged, aligned = run_steps(
        stored_jpeg(scene), "reduced", DetectorOptions(min_face_share=0.25)
    )
    assert [record.reduction for record in (decoded, detected, located, judged)] == [8] * 4
    assert located.data is None
    assert aligned.faces is not None
    assert len(aligned.faces) == 0


def test_the_default_decodes_in_full_and_lets_the_file_go() -> None:
    decoded = run_steps(stored_jpeg(enlarged((600, 600))), "full", DetectorOptions(min_face_share=0.5))[0]
    assert (decoded.reduction, decoded.data) == (1, None)
    assert DecodeOptions().policy == "full"


def test_a_reduced_picture_counts_in_full_for_its_batch() -> None:
    data = stored_jpeg(enlarged((800, 800)))
    reduction = ForDetection(DetectorOptions(min_face_share=0.4))
    decode = _DecodeFn(DecodeOptions(policy="reduced"), 2 * 800 * 800, reduction)
    batches = list(decode.process(Batch("unit", tuple(record_of(data, index) for index in range(5)))))
    assert [[record.index for record in batch.records] for batch in batches] == [[0, 1], [2, 3], [4]]  # type: ignore[attr-defined]
    assert {record.reduction for batch in batches for record in batch.records} == {8}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("side_px", "reduction"), [(230, 1), (320, 2)])
def test_a_picture_is_decoded_anew_for_the_points_of_a_smaller_face_than_was_asked_for(
    side_px: int, reduction: int
) -> None:
    # The face is 92 x 112 px of 512: 41 x 50, which a search for 72 px still finds, and 58 x 70.
    data = stored_jpeg(enlarged((side_px, side_px)))
    decoded, detected, located, *_ = run_steps(data, "reduced", DetectorOptions(min_face_size_px=72))
    assert decoded.reduction == detected.reduction == 2
    assert located.reduction == reduction
    assert located.faces is not None
    assert len(located.faces) == 1
    assert np.abs(located.faces.landmarks[0] - ASTRONAUT_POINTS * side_px / 512).max() < 4
