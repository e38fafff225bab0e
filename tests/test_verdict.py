from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.models.errors import ConfigError
from facemill.transforms.ops.pose import estimate_pose, interocular_px
from facemill.transforms.ops.verdict import VERDICT_REASONS, JudgeOptions, judge_faces

NO_LIMITS = {"max_yaw_deg": 180, "max_pitch_deg": 180}
STRICT = {
    "max_yaw_deg": 20,
    "max_pitch_deg": 25,
    "max_roll_deg": 30,
    "min_interocular_px": 12,
    "min_score": 0.9,
}
IMAGE_WH = (200, 100)


def judge(options: JudgeOptions, *faces: dict[str, Any]) -> tuple[str, ...]:
    """The verdicts on faces that are described by how they differ from a good one."""
    good = {"box": (80, 30, 120, 70), "score": 0.99, "eyes": ((90, 45), (110, 45)), "angles": (0, 0, 0), "iod": 20}
    rows = [good | face for face in faces]
    landmarks = np.full((len(rows), 5, 2), 50, np.float32)
    for points, row in zip(landmarks, rows, strict=True):
        points[:2] = row["eyes"]
    return judge_faces(
        np.array([row["box"] for row in rows], np.float32).reshape(-1, 4),
        np.array([row["score"] for row in rows], np.float32),
        landmarks,
        np.array([row["angles"] for row in rows], np.float32).reshape(-1, 3),
        np.array([row["iod"] for row in rows], np.float32),
        image_wh=IMAGE_WH,
        options=options,
    )


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        ({}, ""),
        ({"score": 0.89}, "score"),
        ({"score": math.nan}, "score"),
        ({"score": 0.91}, ""),
        ({"eyes": ((-0.5, -0.5), (199.5, 99.5))}, ""),
        ({"eyes": ((-0.6, 45), (20, 45))}, "outside"),
        ({"eyes": ((90, 45), (110, 99.6))}, "outside"),
        ({"eyes": ((90, 45), (math.nan, 45))}, "outside"),
        ({"iod": 11.9}, "small"),
        ({"iod": 12}, ""),
        ({"iod": math.nan}, "small"),
        ({"angles": (20, -25, 30)}, ""),
        ({"angles": (20.1, 0, 0)}, "yaw"),
        ({"angles": (-20.1, 0, 0)}, "yaw"),
        ({"angles": (0, 25.1, 0)}, "pitch"),
        ({"angles": (0, -25.1, 0)}, "pitch"),
        ({"angles": (0, 0, 31)}, "roll"),
        ({"angles": (0, 0, -31)}, "roll"),
        ({"angles": (math.nan, math.nan, math.nan)}, "yaw"),
        ({"score": 0.1, "iod": 1, "angles": (90, 90, 90), "eyes": ((-9, 0), (0, 0))}, "score"),
        ({"iod": 1, "angles": (90, 90, 90), "eyes": ((-9, 0), (0, 0))}, "outside"),
        ({"iod": 1, "angles": (90, 90, 90)}, "small"),
        ({"angles": (0, 90, 90)}, "pitch"),
    ],
)
def test_the_first_reason_that_applies(face: dict[str, Any], reason: str) -> None:
    assert judge(JudgeOptions(**STRICT), face) == (reason,)


def test_reasons_are_those_of_the_faces_table_in_the_documented_order() -> None:
    assert VERDICT_REASONS == ("score", "outside", "small", "yaw", "pitch", "roll", "not_selected")


def test_without_limits_only_a_face_that_cannot_be_aligned_is_refused() -> None:
    faces = ({"angles": (-90, 180, -180), "score": 0, "iod": 0}, {"angles": (math.nan,) * 3})
    assert judge(JudgeOptions(**NO_LIMITS), *faces) == ("", "yaw")


SMALL_BEST = {"box": (0, 0, 10, 10), "score": 0.999}
LARGE = {"box": (100, 0, 200, 100), "score": 0.95}
CENTRAL = {"box": (85, 40, 115, 60), "score": 0.96}
LARGEST_BUT_TURNED = {"box": (0, 0, 200, 100), "score": 1.0, "angles": (60, 0, 0)}


@pytest.mark.parametrize(
    ("keep", "faces", "reasons"),
    [
        ("all", (SMALL_BEST, LARGE, CENTRAL), ("", "", "")),
        ("largest", (SMALL_BEST, LARGE, CENTRAL), ("not_selected", "", "not_selected")),
        ("center", (SMALL_BEST, LARGE, CENTRAL), ("not_selected", "not_selected", "")),
        ("best", (SMALL_BEST, LARGE, CENTRAL), ("", "not_selected", "not_selected")),
        ("largest", (LARGEST_BUT_TURNED, SMALL_BEST, LARGE), ("yaw", "not_selected", "")),
        ("best", (LARGEST_BUT_TURNED, SMALL_BEST, LARGE), ("yaw", "", "not_selected")),
        ("center", (LARGEST_BUT_TURNED,), ("yaw",)),
        ("largest", (LARGE, LARGE), ("", "not_selected")),
        ("center", (CENTRAL, CENTRAL), ("", "not_selected")),
        ("best", (CENTRAL, CENTRAL), ("", "not_selected")),
        ("largest", ({"box": (math.nan,) * 4}, SMALL_BEST), ("not_selected", "")),
        ("largest", ({"box": (math.nan,) * 4},), ("",)),
        ("largest", ({"box": (90, 90, 10, 10)}, SMALL_BEST), ("not_selected", "")),
    ],
)
def test_which_face_of_an_image_is_kept(keep: Any, faces: tuple[dict[str, Any], ...], reasons: tuple[str, ...]) -> None:
    assert judge(JudgeOptions(**STRICT, keep=keep), *faces) == reasons


@pytest.mark.parametrize("keep", ["all", "largest", "center", "best"])
def test_no_faces(keep: Any) -> None:
    assert judge(JudgeOptions(keep=keep)) == ()


@given(
    data=st.data(),
    keep=st.sampled_from(["all", "largest", "center", "best"]),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 12),
)
def test_the_order_of_the_faces_does_not_matter_and_nothing_is_changed(
    data: st.DataObject, keep: Any, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (count, 2))
    arrays = [
        np.concatenate([corners, corners + rng.uniform(5, 90, (count, 2))], axis=1),
        rng.uniform(0.5, 1, count),
        rng.uniform(-5, 105, (count, 5, 2)),
        rng.uniform(-60, 60, (count, 3)),
        rng.uniform(5, 40, count),
    ]
    for array in arrays:
        array.setflags(write=False)
    options = JudgeOptions(max_yaw_deg=40, max_pitch_deg=50, min_score=0.6, min_interocular_px=8, keep=keep)
    order = data.draw(st.permutations(range(count)))
    reasons = judge_faces(*arrays, image_wh=IMAGE_WH, options=options)
    shuffled = judge_faces(*(array[order] for array in arrays), image_wh=IMAGE_WH, options=options)
    assert shuffled == tuple(reasons[index] for index in order)
    assert set(reasons) <= {"", *VERDICT_REASONS}
    if keep != "all":
        assert reasons.count("") <= 1
        assert reasons.count("") == 1 or "not_selected" not in reasons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_yaw_deg": -3}, "max_yaw_deg must lie in [0, 180], got -3"),
        ({"max_pitch_deg": 180.5}, "max_pitch_deg must lie in [0, 180], got 180.5"),
        ({"max_roll_deg": math.nan}, "max_roll_deg must lie in [0, 180], got nan"),
        ({"max_roll_deg": "30"}, "max_roll_deg must lie in [0, 180], got '30'"),
        ({"max_yaw_deg": True}, "max_yaw_deg must lie in [0, 180], got True"),
        ({"max_yaw_deg": None}, "max_yaw_deg must lie in [0, 180], got None"),
        ({"min_interocular_px": -1}, "min_interocular_px must lie in [0, inf), got -1"),
        ({"min_interocular_px": math.inf}, "min_interocular_px must lie in [0, inf), got inf"),
        ({"min_score": 1.01}, "min_score must lie in [0, 1], got 1.01"),
        ({"keep": "first"}, "keep must be one of all, largest, center, best, got 'first'"),
    ],
)
def test_impossible_options_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        JudgeOptions(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("options", [{"max_yaw_deg": 0, "min_score": 0}, {"max_yaw_deg": 180, "min_score": 1}])
def test_the_ends_of_the_ranges_are_possible(options: dict[str, Any]) -> None:
    JudgeOptions(**options)


def test_the_default_keeps_frontal_faces_and_drops_profiles(shared_data: Path) -> None:
    """On the points of people for the photographs of MTFL, of which 210 are labelled frontal and 139 profiles."""
    lines = (shared_data / "mtfl_pose" / "gt.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if not record["image"].startswith("AFLW")]
    labels = np.array([record["faces"][0]["pose_class"] for record in records])
    landmarks = np.array([record["faces"][0]["points5"] for record in records])
    count = len(records)
    reasons = judge_faces(
        np.zeros((count, 4)),
        np.ones(count),
        landmarks,
        estimate_pose(landmarks),
        interocular_px(landmarks),
        image_wh=(10_000, 10_000),
        options=JudgeOptions(),
    )
    kept = np.array(reasons) == ""
    assert np.sum(labels == "frontal") == 210
    assert kept[labels == "frontal"].mean() > 0.95
    assert kept[np.isin(labels, ["left_profile", "right_profile"])].mean() < 0.01
