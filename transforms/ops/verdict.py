"""Which faces are kept, and why the others are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from facemill.models.errors import ConfigError
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.records import Faces

Keep = Literal["all", "largest", "center", "best"]
KeepAmong = Literal["passing", "found"]
VerdictReason = Literal[
    "score",
    "outside",
    "small",
    "yaw",
    "pitch",
    "roll",
    "cropped",
    "blurred",
    "dark",
    "bright",
    "flat",
    "under_exposed",
    "over_exposed",
    "occluded",
    "not_selected",
]
# In the order of judgement: a face gets the first reason that applies.
VERDICT_REASONS: tuple[VerdictReason, ...] = get_args(VerdictReason)

_RANGES: dict[str, tuple[float, float]] = {
    "max_yaw_deg": (0, 180),
    "max_pitch_deg": (0, 180),
    "max_roll_deg": (0, 180),
    "min_interocular_px": (0, math.inf),
    "min_score": (0, 1),
    "max_crop_out": (0, 1),
    "min_sharpness": (0, math.inf),
    "min_luminance_mean": (0, 1),
    "max_luminance_mean": (0, 1),
    "min_luminance_variance": (0, 1),
    "max_under_exposure": (0, 1),
    "max_over_exposure": (0, 1),
    "max_eye_occlusion": (0, 1),
    "max_mouth_occlusion": (0, 1),
}
# The option is `min_` or `max_` and the column; at the end of its range it is off.
_QUALITY_FILTERS: tuple[tuple[VerdictReason, str], ...] = (
    ("cropped", "max_crop_out"),
    ("blurred", "min_sharpness"),
    ("dark", "min_luminance_mean"),
    ("bright", "max_luminance_mean"),
    ("flat", "min_luminance_variance"),
    ("under_exposed", "max_under_exposure"),
    ("over_exposed", "max_over_exposure"),
    ("occluded", "max_eye_occlusion"),
    ("occluded", "max_mouth_occlusion"),
)


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """Limits that a face must keep to, and which of the faces of one image that do are kept.

    Angles are limits of the absolute value in degrees; 180 is no limit. The limits from `max_crop_out` on are of the
    column that they name, and off at the end of their range. `keep` is all of them, the one with the largest box, the
    one whose box is centred nearest to the middle of the image, or the one with the best score; `keep_among` says
    whether it is chosen of the faces that meet all limits, or of all that are found with the score, so that no other
    face takes the place of one that fails. ConfigError where a value is impossible.

    The default is a filter for frontal faces. On the 900 MTFL photographs that are not tight crops it keeps 95 % of the
    faces labelled frontal, 26 % of those turned to a side and none of the profiles. Roll is free because alignment
    takes it out.
    """

    max_yaw_deg: float = 21.0
    max_pitch_deg: float = 35.0
    max_roll_deg: float = 180.0
    min_interocular_px: float = 0.0
    min_score: float = 0.0
    max_crop_out: float = 1.0
    min_sharpness: float = 0.0
    min_luminance_mean: float = 0.0
    max_luminance_mean: float = 1.0
    min_luminance_variance: float = 0.0
    max_under_exposure: float = 1.0
    max_over_exposure: float = 1.0
    max_eye_occlusion: float = 1.0
    max_mouth_occlusion: float = 1.0
    keep: Keep = "all"
    keep_among: KeepAmong = "passing"

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and low <= value <= high and math.isfinite(value)):
                interval = f"[{low}, {high}]" if math.isfinite(high) else f"[{low}, inf)"
                raise ConfigError(f"{name} must lie in {interval}, got {value!r}")
        for name, choices in (("keep", get_args(Keep)), ("keep_among", get_args(KeepAmong))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")


def judge_faces(
    faces: Faces,
    *,
    image_wh: tuple[int, int] | np.ndarray,
    options: JudgeOptions,
    image_index: np.ndarray | None = None,
) -> tuple[str, ...]:
    """Why each face is not kept: N reasons, "" for the kept.

    The first of VERDICT_REASONS that applies is given: score and size below their limits; `outside`, an eye outside of
    the picture; an angle beyond its limit; quality beyond the limits that are on; `not_selected` where another face of
    the image was preferred, the first of equals.

    What is not a number fails its limit; of the score, the size and the angles also where there is none, so that a kept
    face can always be aligned.

    Args:
        faces: Of one image or of many; all of their columns but the crops and reasons.
        image_wh: px, of the image, or (N, 2) of the image of each face.
        options: The limits.
        image_index: (N,) integers that are the same for the faces of one image; None where it is one alone.
    """
    assert faces.angles_deg is not None and faces.interocular_px is not None
    within_deg = np.abs(faces.angles_deg) <= [options.max_yaw_deg, options.max_pitch_deg, options.max_roll_deg]
    passed: dict[str, np.ndarray] = {  # in the order of VERDICT_REASONS
        "score": faces.scores >= options.min_score,
        "outside": _eyes_inside(faces.landmarks, image_wh),
        "small": faces.interocular_px >= options.min_interocular_px,
        "yaw": within_deg[:, 0],
        "pitch": within_deg[:, 1],
        "roll": within_deg[:, 2],
        **_good_enough(faces, options),
    }
    if options.keep != "all":
        is_candidate = passed["score"] if options.keep_among == "found" else np.all(list(passed.values()), axis=0)
        candidates = _select(np.flatnonzero(is_candidate), _preference(faces, image_wh, options.keep), image_index)
        passed["not_selected"] = np.isin(np.arange(len(faces)), candidates)
    reasons = (*passed, "")
    failed = np.array([~column for column in passed.values()] + [np.ones(len(faces), dtype=bool)])
    return tuple(reasons[first] for first in failed.argmax(axis=0).tolist())


def _eyes_inside(landmarks: np.ndarray, image_wh: tuple[int, int] | np.ndarray) -> np.ndarray:
    """Whether both eyes lie on the picture's area, half a pixel beyond the outer pixel centres: (N, 5, 2) -> (N,)."""
    eyes = landmarks[:, :2]
    limits = np.reshape(image_wh, (-1, 1, 2)) - 0.5
    return np.all((eyes >= -0.5) & (eyes <= limits), axis=(1, 2))


def _good_enough(faces: Faces, options: JudgeOptions) -> dict[str, np.ndarray]:
    """Whether each face passes the filters of its quality that are on, in the order of judgement."""
    assert faces.quality is not None
    passed: dict[str, np.ndarray] = {}
    for reason, option in _QUALITY_FILTERS:
        limit, is_least = getattr(options, option), option.startswith("min_")
        if limit != _RANGES[option][0 if is_least else 1]:
            values = faces.quality[:, QUALITY_COLUMNS.index(option[4:])]
            passed[reason] = passed.get(reason, True) & (values >= limit if is_least else values <= limit)
    return passed


def _preference(faces: Faces, image_wh: tuple[int, int] | np.ndarray, keep: Keep) -> np.ndarray:
    """What of each face decides which one of its image is kept, the higher the better: -> (N,)."""
    corners = faces.boxes.astype(np.float64)
    if keep == "largest":
        return np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    if keep == "center":
        middle = (np.reshape(image_wh, (-1, 2)) - 1) / 2
        return -np.linalg.norm((corners[:, :2] + corners[:, 2:]) / 2 - middle, axis=1)
    return faces.scores


def _select(candidates: np.ndarray, preference: np.ndarray, image_index: np.ndarray | None) -> np.ndarray:
    """Of the candidates of each image the preferred one, the first of equals: indices (M,) -> (K,)."""
    images = np.zeros(len(candidates), np.int64) if image_index is None else image_index[candidates]
    best_first = np.lexsort((-np.nan_to_num(preference[candidates], nan=-np.inf), images))  # a stable sort
    _, first = np.unique(images[best_first], return_index=True)
    return candidates[best_first[first]]
