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
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.records import Faces
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


def describe(*faces: dict[str, Any]) -> Faces:
    """Faces that are described by how they differ from a good one; its quality is not a number."""
    good = {"box": (80, 30, 120, 70), "score": 0.99, "eyes": ((90, 45), (110, 45)), "angles": (0, 0, 0), "iod": 20}
    rows = [good | face for face in faces]
    landmarks = np.full((len(rows), 5, 2), 50, np.float32)
    for points, row in zip(landmarks, rows, strict=True):
        points[:2] = row["eyes"]
    return Faces(
        np.array([row["box"] for row in rows], np.float32).reshape(-1, 4),
        np.array([row["score"] for row in rows], np.float32),
        landmarks,
        np.array([row["angles"] for row in rows], np.float32).reshape(-1, 3),
        np.array([row["iod"] for row in rows], np.float32),
        np.array([[row.get(name, math.nan) for name in QUALITY_COLUMNS] for row in rows], np.float32).reshape(-1, 10),
    )


def judge(options: JudgeOptions, *faces: dict[str, Any]) -> tuple[str, ...]:
    return judge_faces(describe(*faces), image_wh=IMAGE_WH, options=options)


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


GOOD_QUALITY = {
    "crop_out": 0.1,
    "sharpness": 1.0,
    "luminance_mean": 0.3,
    "luminance_variance": 0.02,
    "under_exposure": 0.2,
    "over_exposure": 0.01,
    "eye_occlusion": 0.1,
    "mouth_occlusion": 0.2,
}
QUALITY_LIMITS = {
    "max_crop_out": 0.1,
    "min_sharpness": 1.0,
    "min_luminance_mean": 0.25,
    "max_luminance_mean": 0.5,
    "min_luminance_variance": 0.02,
    "max_under_exposure": 0.25,
    "max_over_exposure": 0.0625,
    "max_eye_occlusion": 0.5,
    "max_mouth_occlusion": 0.75,
}


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({}, ""),
        ({"crop_out": 0.11}, "cropped"),
        ({"sharpness": 0.99}, "blurred"),
        ({"luminance_mean": 0.25}, ""),
        ({"luminance_mean": 0.24}, "dark"),
        ({"luminance_mean": 0.5}, ""),
        ({"luminance_mean": 0.51}, "bright"),
        ({"luminance_variance": 0.019}, "flat"),
        ({"under_exposure": 0.25}, ""),
        ({"under_exposure": 0.26}, "under_exposed"),
        ({"over_exposure": 0.0625}, ""),
        ({"over_exposure": 0.063}, "over_exposed"),
        ({"eye_occlusion": 0.5, "mouth_occlusion": 0.75}, ""),
        ({"eye_occlusion": 0.51}, "occluded"),
        ({"mouth_occlusion": 0.76}, "occluded"),
        ({"sharpness": 0.1, "luminance_mean": 0.1, "under_exposure": 1}, "blurred"),
        ({"luminance_mean": 0.1, "luminance_variance": 0, "under_exposure": 1}, "dark"),
        ({"luminance_variance": 0, "over_exposure": 1, "mouth_occlusion": 1}, "flat"),
        ({"over_exposure": 1, "eye_occlusion": 1}, "over_exposed"),
        ({"angles": (0, 0, 31), "crop_out": 1}, "roll"),
        *(({name: math.nan}, None) for name in GOOD_QUALITY),
    ],
)
def test_quality_just_inside_and_just_beyond_its_limits(worse: dict[str, Any], reason: str | None) -> None:
    face = GOOD_QUALITY | worse
    assert judge(JudgeOptions(**STRICT), face) == (reason if reason == "roll" else "",), "the filters are off"
    (found,) = judge(JudgeOptions(**STRICT, **QUALITY_LIMITS), face)
    assert found == reason if reason is not None else found, "what is not a number fails"


@pytest.mark.parametrize("option", QUALITY_LIMITS)
def test_a_filter_alone_minds_its_own_column(option: str) -> None:
    options = JudgeOptions(**{option: QUALITY_LIMITS[option]})
    nothing_but = {option[4:]: GOOD_QUALITY[option[4:]]}
    assert judge(options, nothing_but) == ("",)
    assert judge(options, {})[0] in VERDICT_REASONS


def test_reasons_are_those_of_the_faces_table_in_the_documented_order() -> None:
    geometry = ("score", "outside", "small", "yaw", "pitch", "roll")
    quality = ("cropped", "blurred", "dark", "bright", "flat", "under_exposed", "over_exposed", "occluded")
    assert (*geometry, *quality, "not_selected") == VERDICT_REASONS


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
    faces = random_faces(np.random.default_rng(seed), count)
    options = JudgeOptions(**MIDDLING, keep=keep)
    order = data.draw(st.permutations(range(count)))
    reasons = judge_faces(faces, image_wh=IMAGE_WH, options=options)
    shuffled = judge_faces(take(faces, order), image_wh=IMAGE_WH, options=options)
    assert shuffled == tuple(reasons[index] for index in order)
    assert set(reasons) <= {"", *VERDICT_REASONS}
    if keep != "all":
        assert reasons.count("") <= 1
        assert reasons.count("") == 1 or "not_selected" not in reasons


MIDDLING = {"max_yaw_deg": 40, "max_pitch_deg": 50, "min_score": 0.6, "min_interocular_px": 8, "min_sharpness": 0.3}


def random_faces(rng: np.random.Generator, count: int) -> Faces:
    """Faces in and about IMAGE_WH, of which about a third passes MIDDLING; they cannot be written to."""
    corners = rng.uniform(0, 100, (count, 2))
    columns = [
        np.concatenate([corners, corners + rng.uniform(5, 90, (count, 2))], axis=1),
        rng.uniform(0.5, 1, count),
        rng.uniform(-5, 105, (count, 5, 2)),
        rng.uniform(-60, 60, (count, 3)),
        rng.uniform(5, 40, count),
        rng.uniform(0, 1, (count, len(QUALITY_COLUMNS))),
    ]
    for column in columns:
        column.setflags(write=False)
    return Faces(*columns)


def take(faces: Faces, rows: Any) -> Faces:
    assert faces.angles_deg is not None and faces.interocular_px is not None and faces.quality is not None
    return Faces(
        faces.boxes[rows],
        faces.scores[rows],
        faces.landmarks[rows],
        faces.angles_deg[rows],
        faces.interocular_px[rows],
        faces.quality[rows],
    )


@given(
    keep=st.sampled_from(["all", "largest", "center", "best"]),
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 5), max_size=8),
)
def test_many_images_at_once_are_judged_as_each_alone(keep: Any, seed: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    faces, options = random_faces(rng, sum(counts)), JudgeOptions(**MIDDLING, keep=keep)
    sizes = rng.integers(50, 150, (len(counts), 2))
    image_index = np.repeat(np.arange(len(counts)), counts)
    together = judge_faces(faces, image_wh=sizes[image_index], options=options, image_index=image_index)
    alone = [
        judge_faces(take(faces, image_index == image), image_wh=tuple(sizes[image]), options=options)
        for image in range(len(counts))
    ]
    assert together == tuple(reason for reasons in alone for reason in reasons)


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
        ({"max_crop_out": 1.5}, "max_crop_out must lie in [0, 1], got 1.5"),
        ({"min_sharpness": -0.1}, "min_sharpness must lie in [0, inf), got -0.1"),
        ({"max_mouth_occlusion": math.nan}, "max_mouth_occlusion must lie in [0, 1], got nan"),
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
    faces = Faces(
        np.zeros((count, 4)),
        np.ones(count),
        landmarks,
        estimate_pose(landmarks),
        interocular_px(landmarks),
        np.full((count, len(QUALITY_COLUMNS)), np.nan),
    )
    kept = np.array(judge_faces(faces, image_wh=(10_000, 10_000), options=JudgeOptions())) == ""
    assert np.sum(labels == "frontal") == 210
    assert kept[labels == "frontal"].mean() > 0.95
    assert kept[np.isin(labels, ["left_profile", "right_profile"])].mean() < 0.01


@pytest.mark.parametrize(
    ("keep", "keep_among", "reasons"),
    [
        ("largest", "passing", ("yaw", "", "not_selected")),
        ("largest", "found", ("yaw", "not_selected", "not_selected")),
        ("best", "found", ("yaw", "not_selected", "")),
        ("center", "found", ("yaw", "not_selected", "")),
        ("all", "found", ("yaw", "", "")),
    ],
)
def test_where_the_subject_fails_a_bystander_may_take_its_place_or_not(
    keep: Any, keep_among: Any, reasons: tuple[str, ...]
) -> None:
    subject = {"box": (0, 0, 60, 60), "angles": (40, 0, 0), "score": 0.95}
    bystander = {"box": (150, 0, 190, 40), "score": 0.96}
    small = {"box": (90, 40, 110, 60), "score": 0.97}
    options = JudgeOptions(keep=keep, keep_among=keep_among)
    assert judge(options, subject, bystander, small) == reasons


def test_what_has_no_score_is_no_subject() -> None:
    blob = {"box": (0, 0, 90, 90), "score": 0.2}
    options = JudgeOptions(keep="largest", keep_among="found", min_score=0.5)
    assert judge(options, blob, {}) == ("score", "")
