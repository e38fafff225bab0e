"""The cascade's geometry, its bounds, and its behaviour on real and made-up pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from facemill.models import Cascade, DetectorOptions, Face, FaceDetector, cascade
from facemill.models.boxes import box_iou
from facemill.models.cascade import _ScannedLevel, _Windows, probabilities
from facemill.models.errors import BadInputError, ConfigError
from facemill.models.pyramid import ImagePyramid
from facemill.models.sessions import Network

# Read off an enlarged print of the picture: eyes, nose tip, mouth corners.
ASTRONAUT_POINTS = [[203.5, 101], [246.5, 103], [224.5, 126.5], [203.5, 140], [243.5, 140.5]]


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    image: np.ndarray = data.astronaut()
    return image


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("min_face_size_px", 11.9, "min_face_size_px must be 12 or more, got 11.9"),
        ("min_face_size_px", float("nan"), "min_face_size_px must be 12 or more, got nan"),
        ("min_face_size_px", float("inf"), "got inf"),
        ("min_face_size_px", "20", "got '20'"),
        ("scale_factor", 1.2, r"scale_factor must lie in \(0, 0.99\], got 1.2"),
        ("scale_factor", 1.0, "got 1.0"),
        ("scale_factor", 0.0, "got 0.0"),
        ("score_thresholds", (0.6, 0.7, 1.7), r"score_thresholds must .* got \(0.6, 0.7, 1.7\)"),
        ("score_thresholds", (0.6, 0.7), r"got \(0.6, 0.7\)"),
        ("score_thresholds", 0.6, "got 0.6"),
        ("nms_level_threshold", -0.1, r"nms_level_threshold must lie in \[0, 1\], got -0.1"),
        ("nms_image_threshold", 2, "nms_image_threshold"),
        ("nms_face_threshold", True, "nms_face_threshold"),
        ("max_candidates", 0, "max_candidates must be 1 or more, got 0"),
        ("max_candidates", 10.5, "got 10.5"),
    ],
)
def test_impossible_options(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorOptions(**{field: value})  # type: ignore[arg-type]


def test_options_as_keywords() -> None:
    assert FaceDetector(min_face_size_px=40).options == DetectorOptions(min_face_size_px=40)
    with pytest.raises(ConfigError, match="scale_factor"):
        FaceDetector(scale_factor=2)
    with pytest.raises(TypeError, match="not both"):
        FaceDetector(DetectorOptions(), min_face_size_px=40)


def logit(probabilities: list[float]) -> np.ndarray:
    values = np.array(probabilities)
    return np.log(values / (1 - values))


def test_probabilities_are_the_logistic_function() -> None:
    logits = np.array([-200, -30, -4, -0.1, 0, 1e-4, 3, 25, 200], np.float32)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-logits.astype(float)))
    assert probabilities(logits).dtype == np.float32
    np.testing.assert_allclose(probabilities(logits), expected, rtol=0, atol=1e-7)


def fake_onet(scores: list[float], offsets: list[list[float]], points: list[list[float]]) -> Network:
    heads = np.hstack([logit(scores)[:, np.newaxis], offsets, points]).astype(np.float32)

    def run(patches: np.ndarray) -> np.ndarray:
        assert (patches.shape, patches.dtype) == ((len(heads), 48, 48, 3), np.uint8)
        return heads

    return run


BLANK = np.zeros((100, 100, 3), np.uint8)
POINTS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_proposals_are_moved_by_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-Net moves the window half a width to the right; R-Net makes it 10 px wide; then it is made square."""
    cascade = Cascade()
    offsets = np.array([[0.5, 0, 0.5, 0]], np.float32)
    windows = _Windows(np.array([[10.0, 10, 30, 30]]), np.array([0.8], np.float32), offsets)
    monkeypatch.setattr(cascade, "_scan", lambda pyramid: (windows, 7))
    shown = []

    def rnet(patches: np.ndarray) -> np.ndarray:
        shown.append(patches)
        return np.array([[logit([0.9])[0], 0, 0, -0.5, 0]], np.float32)

    cascade._rnet = rnet
    image = BLANK.copy()
    image[:, 40:] = 255
    proposals = cascade.propose(ImagePyramid(image))
    np.testing.assert_allclose(proposals.boxes, [[14.5, 9.5, 34.5, 29.5]])
    np.testing.assert_allclose(proposals.scores, [0.9], rtol=1e-6)
    assert proposals.num_capped == 7
    # R-Net saw columns 20 to 40 and a little of what is beyond: half a pixel of its patch.
    assert shown[0].shape == (1, 24, 24, 3)
    assert (shown[0][0, :, :23] == 0).all() and (shown[0][0, :, 23] > 50).all()


def test_landmarks_lie_on_the_window_before_it_moves() -> None:
    cascade = Cascade()
    cascade._onet = fake_onet([0.9], [[0.5, 0.5, 0.5, 0.5]], [POINTS])
    found = cascade.refine(ImagePyramid(BLANK), np.array([[9.5, 19.5, 29.5, 39.5]], np.float32))
    # Edges 10, 20, 30, 40; half a pixel less counts from the centre of the first pixel.
    np.testing.assert_allclose(found.boxes, [[19.5, 29.5, 39.5, 49.5]])
    expected = [[11.5, 31.5], [13.5, 33.5], [15.5, 35.5], [17.5, 37.5], [19.5, 39.5]]
    np.testing.assert_allclose(found.landmarks, [expected], rtol=1e-6)
    assert {array.dtype for array in (found.boxes, found.scores, found.landmarks)} == {np.dtype(np.float32)}


def test_windows_that_agree_are_averaged_by_score() -> None:
    cascade = Cascade()
    boxes = np.array([[0, 0, 40, 40], [1, 0, 41, 40], [10, 0, 50, 40], [60, 60, 80, 80]], np.float32)
    cascade._onet = fake_onet([0.9, 0.8, 0.85, 0.6], [[0.0] * 4] * 4, [[0.0] * 10] * 4)
    found = cascade.refine(ImagePyramid(BLANK), boxes)
    # The second nearly coincides with the first (IoU 0.95); the third is suppressed (0.75 of the smaller area), but its
    # IoU is 0.6; the fourth scores too low.
    shift = 0.8 / (0.9 + 0.8)
    np.testing.assert_allclose(found.boxes, [[shift, 0, 40 + shift, 40]], rtol=1e-5)
    np.testing.assert_allclose(found.landmarks[0, :, 0], [shift] * 5, rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)


def test_locate_answers_for_every_box_in_order() -> None:
    cascade = Cascade()
    cascade._onet = fake_onet([0.1, 0.9], [[0.0] * 4] * 2, [[0.5] * 10] * 2)
    scores, landmarks = cascade.locate(ImagePyramid(BLANK), np.array([[40, 40, 60, 80], [10, 10, 20, 20]], np.float32))
    np.testing.assert_allclose(scores, [0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(landmarks, [[[50, 60]] * 5, [[15, 15]] * 5], rtol=1e-6)


def test_nothing_in_nothing_out() -> None:
    cascade = Cascade()
    nothing = np.zeros((0, 4), np.float32)
    found = cascade.refine(ImagePyramid(BLANK), nothing)
    assert (found.boxes.shape, found.scores.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    scores, landmarks = cascade.locate(ImagePyramid(BLANK), nothing)
    assert (scores.shape, landmarks.shape) == ((0,), (0, 5, 2))
    proposals = cascade.propose(ImagePyramid(BLANK))
    assert (proposals.boxes.shape, proposals.scores.shape, proposals.num_capped) == ((0, 4), (0,), 0)


def best(faces: list[Face]) -> Face:
    assert faces
    return faces[0]


def test_a_known_face(detector: FaceDetector, astronaut: np.ndarray) -> None:
    faces = detector.detect(astronaut)
    assert [face.score > 0.95 for face in faces].count(True) == 1
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
    np.testing.assert_allclose(best(faces).landmarks, ASTRONAUT_POINTS, atol=3)
    x1, y1, x2, y2 = best(faces).bbox
    assert x1 < 200 and x2 > 247 and y1 < 90 and y2 > 150
    assert best(faces).bbox.dtype == best(faces).landmarks.dtype == np.float32


def test_a_mirrored_face(detector: FaceDetector, astronaut: np.ndarray) -> None:
    face, mirrored = best(detector.detect(astronaut)), best(detector.detect(astronaut[:, ::-1]))
    landmarks = mirrored.landmarks[[1, 0, 2, 4, 3]]
    landmarks[:, 0] = astronaut.shape[1] - 1 - landmarks[:, 0]
    np.testing.assert_allclose(landmarks, face.landmarks, atol=2)
    # Half a pixel of bias would show in the mean as a whole one.
    assert abs((landmarks - face.landmarks)[:, 0].mean()) < 0.75


@pytest.mark.parametrize("shift", [1, 7, 30])
def test_a_shifted_face(detector: FaceDetector, astronaut: np.ndarray, shift: int) -> None:
    moved = np.roll(astronaut, (shift, shift), axis=(0, 1))
    difference = best(detector.detect(moved)).landmarks - best(detector.detect(astronaut)).landmarks
    np.testing.assert_allclose(difference, shift, atol=1.5)


@pytest.mark.parametrize("min_face_size_px", [20, 30, 60, 80])
def test_min_face_size_is_honoured(astronaut: np.ndarray, min_face_size_px: float) -> None:
    """The face is some 90 px wide; mtcnn 1.0.0 finds nothing from about 30 on."""
    assert best(FaceDetector(min_face_size_px=min_face_size_px).detect(astronaut)).score > 0.95


def test_a_larger_min_face_size_finds_no_small_face(astronaut: np.ndarray) -> None:
    assert FaceDetector(min_face_size_px=200).detect(astronaut) == []


def test_the_result_depends_on_the_image_alone(detector: FaceDetector, astronaut: np.ndarray) -> None:
    first = detector.detect(astronaut)
    detector.detect(data.coffee())
    detector.detect(np.random.default_rng(0).integers(0, 256, (333, 222, 3), dtype=np.uint8))
    for again in (
        detector.detect(astronaut),
        FaceDetector().detect(astronaut),
        detector.detect(astronaut[:, ::-1][:, ::-1]),
    ):
        assert len(again) == len(first) > 0
        for ours, theirs in zip(first, again, strict=True):
            assert ours.score == theirs.score
            np.testing.assert_array_equal(ours.bbox, theirs.bbox)
            np.testing.assert_array_equal(ours.landmarks, theirs.landmarks)


def test_locate_is_the_same_for_one_box_and_for_many(astronaut: np.ndarray) -> None:
    corners = np.random.default_rng(1).uniform(0, 300, (150, 2))
    boxes = np.hstack([corners, corners + np.random.default_rng(2).uniform(10, 200, (150, 2))]).astype(np.float32)
    cascade = Cascade()
    scores, landmarks = cascade.locate(ImagePyramid(astronaut), boxes)
    for index in (0, 63, 64, 149):
        score, points = cascade.locate(ImagePyramid(astronaut), boxes[index : index + 1])
        assert score[0] == scores[index]
        np.testing.assert_array_equal(points[0], landmarks[index])


def test_locate_on_the_detected_box(detector: FaceDetector, astronaut: np.ndarray) -> None:
    scores, landmarks = Cascade().locate(ImagePyramid(astronaut), best(detector.detect(astronaut)).bbox[np.newaxis])
    assert scores[0] > 0.95
    np.testing.assert_allclose(landmarks[0], ASTRONAUT_POINTS, atol=4)


def test_the_cap_bounds_and_counts() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    thresholds = (0.01, 0.7, 0.7)
    capped = Cascade(DetectorOptions(score_thresholds=thresholds, max_candidates=20))
    free = Cascade(DetectorOptions(score_thresholds=thresholds, max_candidates=10**6))
    windows, num_capped = capped._scan(ImagePyramid(noise))
    all_windows, num_capped_free = free._scan(ImagePyramid(noise))
    assert num_capped_free == 0
    assert len(all_windows.scores) > 200
    assert len(windows.scores) == 20
    assert num_capped > 180
    assert capped.propose(ImagePyramid(noise)).num_capped == num_capped
    # The best window of the image is never the one that is cut.
    assert windows.scores[0] == all_windows.scores[0]


def test_both_cuts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels of 15 windows that nothing suppresses; the first lost 3 before: 20 stay, 3 + 10 went."""
    cascade = Cascade(DetectorOptions(max_candidates=20))
    cells = np.stack([np.zeros(15, np.int64), 6 * np.arange(15)], axis=1)
    heads = np.zeros((30, 5), np.float32)
    heads[:, 0] = logit(np.linspace(0.7, 0.9, 30).tolist())
    levels = iter(
        [
            _ScannedLevel(cells, heads[:15], (1.0, 1.0), (1, 85), 3),
            _ScannedLevel(cells, heads[15:], (2.0, 2.0), (1, 85), 0),
        ]
    )
    monkeypatch.setattr(cascade, "_scan_level", lambda level: next(levels))
    windows, num_capped = cascade._scan(ImagePyramid(np.zeros((40, 29, 3), np.uint8)))
    assert num_capped == 13
    corners = np.concatenate([24.0 * np.arange(15), 12.0 * np.arange(15)])
    sides = np.repeat([24.0, 12.0], 15)
    edges = np.stack([corners, np.zeros(30), corners + sides, sides], axis=1)
    # Of the second level all, best first, then the best of the first.
    expected = np.concatenate([edges[:15][::-1], edges[15:][::-1][:5]])
    np.testing.assert_array_equal(windows.edges, expected)
    np.testing.assert_allclose(windows.scores, np.linspace(0.9, 0.7, 30)[:20], rtol=1e-6)


def scan(image: np.ndarray, options: DetectorOptions) -> _Windows:
    return Cascade(options)._scan(ImagePyramid(image))[0]


def assume_overlap(monkeypatch: pytest.MonkeyPatch, may_overlap: bool) -> None:
    monkeypatch.setattr(cascade, "_may_overlap", lambda pixel_whs, iou_threshold: may_overlap)


PHOTOGRAPHS = {"astronaut": data.astronaut(), "odd": data.astronaut()[:401, :333], "coffee": data.coffee()}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("scale_factor", [0.709, 0.6, 0.5])
def test_suppression_across_levels_is_left_out_where_it_changes_nothing(
    name: str, scale_factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DetectorOptions(scale_factor=scale_factor, score_thresholds=(0.3, 0.7, 0.7))
    pixel_whs = [level.pixel_wh for level in levels_of(PHOTOGRAPHS[name], options)]
    assert not cascade._may_overlap(np.array(pixel_whs), options.nms_image_threshold)
    windows = scan(PHOTOGRAPHS[name], options)
    assume_overlap(monkeypatch, True)
    forced = scan(PHOTOGRAPHS[name], options)
    assert len(windows.scores) > 100
    np.testing.assert_array_equal(windows.edges, forced.edges)
    np.testing.assert_array_equal(windows.scores, forced.scores)
    np.testing.assert_array_equal(windows.offsets, forced.offsets)


def levels_of(image: np.ndarray, options: DetectorOptions) -> list[Any]:
    levels = ImagePyramid(image).levels(min_face_size_px=options.min_face_size_px, scale_factor=options.scale_factor)
    return list(levels)


def test_suppression_across_levels_happens_where_windows_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    options = DetectorOptions(scale_factor=0.95)
    windows = scan(data.astronaut(), options)
    assume_overlap(monkeypatch, False)
    every = scan(data.astronaut(), options)
    assert 50 < len(windows.scores) < 0.8 * len(every.scores)
    most, most_of_every = (np.triu(box_iou(found.edges, found.edges), 1).max() for found in (windows, every))
    assert most <= options.nms_image_threshold < most_of_every


@pytest.mark.parametrize(
    ("pixel_whs", "threshold", "expected"),
    [
        ([(1, 1), (1.41, 1.41), (2, 2)], 0.7, False),
        ([(1, 1), (1.1, 1.1)], 0.7, True),
        ([(1, 1), (2, 2), (2.2, 2.2)], 0.7, True),
        ([(1, 1), (1.1, 1.9)], 0.7, False),
        ([(1, 1), (2, 2)], 0.25, True),
        ([(1, 1), (2, 2)], 0.2, True),
        ([(1, 1), (2, 2)], 0.26, False),
        ([(1, 1)], 0.0, False),
    ],
)
def test_windows_of_levels_overlap_by_the_ratio_of_their_areas(
    pixel_whs: list[tuple[float, float]], threshold: float, expected: bool
) -> None:
    """At the threshold itself rounding may decide, so that it counts as above."""
    assert cascade._may_overlap(np.array(pixel_whs, float), threshold) == expected


def test_the_cap_keeps_the_face(astronaut: np.ndarray) -> None:
    assert best(FaceDetector(max_candidates=30).detect(astronaut)).score > 0.95


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((50, 50), np.uint8),
        np.zeros((50, 50, 4), np.uint8),
        np.zeros((50, 50, 3), np.float32),
        np.zeros((0, 50, 3), np.uint8),
        np.zeros((1, 50, 50, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty", "batch"],
)
def test_other_arrays_are_refused(detector: FaceDetector, image: np.ndarray) -> None:
    with pytest.raises(BadInputError, match=r"must be a non-empty \(H, W, 3\) uint8 RGB array, got \("):
        detector.detect(image)


def test_other_objects_are_refused(detector: FaceDetector) -> None:
    with pytest.raises(BadInputError, match="numpy array, got str"):
        detector.detect("photo.jpg")  # type: ignore[arg-type]


@settings(max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_any_small_image(detector: FaceDetector, width: int, height: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.flags.writeable = False
    for face in detector.detect(image):
        assert np.isfinite(face.bbox).all() and np.isfinite(face.landmarks).all() and 0.7 < face.score <= 1


def test_strided_images(detector: FaceDetector, astronaut: np.ndarray) -> None:
    face = best(detector.detect(np.asfortranarray(astronaut)))
    np.testing.assert_array_equal(face.bbox, best(detector.detect(astronaut)).bbox)


@pytest.mark.slow
def test_a_20_megapixel_image_takes_little_memory() -> None:
    """In a process of its own, imports and the image of 61 MB included."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc: getrusage would count the parent's memory as well")
    code = (
        "import re, pathlib, numpy as np; from skimage import data; from facemill.models import FaceDetector;"
        "image = np.tile(data.astronaut(), (8, 10, 1))[:3904];"
        "faces = FaceDetector(min_face_size_px=20).detect(image);"
        "peak_kb = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1];"
        "print(image.size // 3, len(faces), int(peak_kb) // 1024)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    num_pixels, num_faces, peak_mb = map(int, run.stdout.split())
    assert num_pixels > 19.9e6
    assert num_faces >= 75  # 7 whole rows and a part, of 10 faces each
    assert peak_mb < 450
