from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facemill.transforms.ops import pose
from facemill.transforms.ops.pose import estimate_pose, interocular_px

# x to the right of the image, y down, z towards the camera; made up, and not the proportions of the fitted face.
ROUGH_FACE = np.array([[-1, 0, 0], [1, 0, 0], [0, 1, 0.8], [-0.7, 2, 0], [0.7, 2, 0]])
LEFT_RIGHT_SWAPPED = [1, 0, 2, 4, 3]


def look(face: np.ndarray, yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """The five points in the image, of a face that looks up, then to the right, then is tilted clockwise."""
    x, y, z = face.T
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    y, z = y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z * np.cos(pitch)  # the nose rises
    x = x * np.cos(yaw) + z * np.sin(yaw)  # the nose goes right
    return np.stack([x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)], axis=-1)


@pytest.mark.parametrize("face", [ROUGH_FACE, pose._FACE_MM])
@pytest.mark.parametrize("angle", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_signs_of_yaw_right_pitch_up_roll_clockwise(face: np.ndarray, angle: int, sign: int) -> None:
    turn = np.zeros(3)
    turn[angle] = 20.0 * sign
    straight, turned = estimate_pose(np.stack([look(face, 0, 0, 0), look(face, *turn)]))
    change = turned - straight
    assert np.sign(change[angle]) == sign
    assert 10 < abs(change[angle]) < 30
    np.testing.assert_allclose(np.delete(change, angle), 0, atol=3)


def test_signs_by_hand() -> None:
    """Points written down from what a face does, without any projection."""
    frontal = np.array([[40, 50], [80, 50], [60, 73], [45, 94], [75, 94]], dtype=float)
    nose_right, nose_up, right_eye_lower = frontal.copy(), frontal.copy(), frontal.copy()
    nose_right[2, 0] += 8
    nose_up[2, 1] -= 8
    right_eye_lower[1::3, 1] += 4
    base, yaw, pitch, roll = estimate_pose(np.stack([frontal, nose_right, nose_up, right_eye_lower]))
    assert yaw[0] > 10 and abs(base[0]) < 1e-3 and abs(base[2]) < 1e-3
    assert pitch[1] > base[1] + 5 and abs(pitch[0]) < 1e-3
    assert roll[2] > 2


@given(
    yaw_deg=st.floats(-85, 85),
    pitch_deg=st.floats(-85, 85),
    roll_deg=st.floats(-179, 179),
    scale=st.floats(0.01, 100),
    shift=st.tuples(st.floats(-5000, 5000), st.floats(-5000, 5000)),
)
def test_recovers_the_pose_of_the_generic_face(
    yaw_deg: float, pitch_deg: float, roll_deg: float, scale: float, shift: tuple[float, float]
) -> None:
    points = look(pose._FACE_MM, yaw_deg, pitch_deg, roll_deg) * scale + shift
    before = points.copy()
    found = estimate_pose(points[None])
    np.testing.assert_allclose(found, [[yaw_deg, pitch_deg, roll_deg]], atol=1e-3)
    assert np.array_equal(points, before)


faces = hnp.arrays(np.float32, (5, 2), elements=st.floats(-20, 20, width=32)).map(
    lambda jitter: look(pose._FACE_MM, 0, 0, 0) + jitter
)


@given(face=faces, turn_deg=st.floats(-90, 90))
def test_a_turn_of_the_image_changes_the_roll_alone(face: np.ndarray, turn_deg: float) -> None:
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    clockwise = face @ np.array([[cos, sin], [-sin, cos]])
    before, after = estimate_pose(np.stack([face, clockwise]))
    np.testing.assert_allclose(after[:2], before[:2], atol=1e-2)
    assert abs((after[2] - before[2] - turn_deg + 180) % 360 - 180) < 1e-2


@given(face=faces)
def test_a_mirrored_image_changes_the_signs_of_yaw_and_roll(face: np.ndarray) -> None:
    mirrored = (face * [-1, 1])[LEFT_RIGHT_SWAPPED]
    before, after = estimate_pose(np.stack([face, mirrored]))
    np.testing.assert_allclose(after, before * [-1, 1, -1], atol=1e-2)


@given(batch=hnp.arrays(np.float32, (7, 5, 2), elements=st.floats(-1e4, 1e4, width=32)))
def test_a_face_does_not_depend_on_its_neighbours(batch: np.ndarray) -> None:
    together = estimate_pose(batch)
    for index in range(7):
        np.testing.assert_array_equal(estimate_pose(batch[index : index + 1])[0], together[index])


GOOD = look(ROUGH_FACE, 10, 5, 3)
ONE_NAN = GOOD.copy()
ONE_NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.tile([0.1, 1234.7], (5, 1)),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        ONE_NAN,
        np.linspace([1, 2], [41, 62], 5),
        GOOD * [1, 0],
    ],
)
def test_points_without_a_pose_give_nan_and_disturb_no_other(points: np.ndarray) -> None:
    found = estimate_pose(np.stack([GOOD, points, GOOD]))
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], np.repeat(estimate_pose(GOOD[None]), 2, axis=0))
    assert np.isfinite(found[0]).all()


def test_no_faces() -> None:
    assert estimate_pose(np.zeros((0, 5, 2), np.float32)).shape == (0, 3)
    assert interocular_px(np.zeros((0, 5, 2), np.float32)).shape == (0,)


def test_interocular_px_by_hand() -> None:
    landmarks = np.zeros((3, 5, 2), np.float32)
    landmarks[0, :2] = [[10, 20], [13, 24]]
    landmarks[1, 0] = np.nan
    found = interocular_px(landmarks)
    np.testing.assert_array_equal(found, np.array([5, np.nan, 0], np.float32))
    assert found.dtype == estimate_pose(landmarks).dtype == np.float32


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative in which the positive scores higher, ties counting half."""
    difference = scores[positive][:, None] - scores[~positive][None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@pytest.mark.parametrize(("points", "at_least"), [("mt", 0.955), ("fp", 0.955), ("human", 0.98)])
def test_yaw_tells_frontal_faces_from_turned_ones(
    mtfl_faces: tuple[np.ndarray, dict[str, np.ndarray]], points: str, at_least: float
) -> None:
    """MTFL labels; the offset of the nose along the line between the eyes alone reaches 0.945, 0.952 and 0.954."""
    labels, landmarks = mtfl_faces
    yaw_deg = estimate_pose(landmarks[points])[:, 0]
    assert np.isfinite(yaw_deg).all() and len(yaw_deg) > 850
    assert area_under_curve(-np.abs(yaw_deg), labels == "frontal") > at_least
    for label, sign in (("left", -1), ("right", 1)):  # the side of the image that the face looks to
        assert np.mean(np.sign(yaw_deg[labels == label]) == sign) > 0.95


@pytest.fixture(scope="module")
def mtfl_faces(shared_data: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels of the photographs of MTFL that both references found a face in, and their points: three of (N, 5, 2)."""
    lines = (shared_data / "mtfl_pose" / "gt.jsonl").read_text().splitlines()
    truth = [record for record in map(json.loads, lines) if not record["image"].startswith("AFLW")]
    predictions: dict[tuple[str, str], list[np.ndarray]] = {}
    for reference in ("mt", "fp"):
        path = shared_data / "golden" / "predictions" / f"mtfl_pose.{reference}.jsonl"
        for record in map(json.loads, path.read_text().splitlines()):
            if record["x1"] is not None:
                points = np.reshape(record["landmarks"], (5, 2))
                predictions.setdefault((reference, record["image"]), []).append(points)
    labels: list[str] = []
    landmarks: dict[str, list[np.ndarray]] = {"mt": [], "fp": [], "human": []}
    for record in truth:
        human = np.array(record["faces"][0]["points5"])
        found = [predictions.get((reference, record["image"]), []) for reference in ("mt", "fp")]
        if all(found):
            labels.append(record["faces"][0]["pose_class"])
            landmarks["human"].append(human)
            for reference, faces_found in zip(("mt", "fp"), found, strict=True):
                landmarks[reference].append(min(faces_found, key=lambda face: np.linalg.norm(face - human)))
    return np.array(labels), {name: np.array(points) for name, points in landmarks.items()}
