"""Which faces are kept, and why the others are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from facemill.models.errors import ConfigError

Keep = Literal["all", "largest", "center", "best"]
VerdictReason = Literal["score", "outside", "small", "yaw", "pitch", "roll", "not_selected"]
# In the order of judgement: a face gets the first reason that applies.
VERDICT_REASONS: tuple[VerdictReason, ...] = get_args(VerdictReason)

_RANGES = {
    "max_yaw_deg": (0, 180),
    "max_pitch_deg": (0, 180),
    "max_roll_deg": (0, 180),
    "min_interocular_px": (0, math.inf),
    "min_score": (0, 1),
}


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """Limits that a face must keep to, and which of the faces of one image that do are kept.

    Angles are limits of the absolute value in degrees; 180 is no limit. `keep` is all of them, the one with the largest
    box, the one whose box is centred nearest to the middle of the image, or the one with the best score. ConfigError
    where a value is impossible.

    The default is a filter for frontal faces. On the 900 MTFL photographs that are not tight crops, with the points of
    mtcnn 1.0.0, it keeps 95 % of the faces labelled frontal, 27 % of those turned to a side, 1 % of the profiles.
    Roll is free because alignment takes it out.
    """

    max_yaw_deg: float = 21.0
    max_pitch_deg: float = 35.0
    max_roll_deg: float = 180.0
    min_interocular_px: float = 0.0
    min_score: float = 0.0
    keep: Keep = "all"

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and low <= value <= high and math.isfinite(value)):
                interval = f"[{low}, {high}]" if math.isfinite(high) else f"[{low}, inf)"
                raise ConfigError(f"{name} must lie in {interval}, got {value!r}")
        if self.keep not in get_args(Keep):
            raise ConfigError(f"keep must be one of {', '.join(get_args(Keep))}, got {self.keep!r}")


def judge_faces(
    boxes: np.ndarray,
    scores: np.ndarray,
    landmarks: np.ndarray,
    angles_deg: np.ndarray,
    interocular_px: np.ndarray,
    *,
    image_wh: tuple[int, int],
    options: JudgeOptions,
) -> tuple[str, ...]:
    """Why each face of one image is not kept: N reasons, "" for the kept.

    Takes (N, 4) px, (N,), (N, 5, 2) px, (N, 3) yaw, pitch, roll in degrees, and (N,) px. The first of VERDICT_REASONS
    that applies is given: score and size below their limits; `outside`, an eye outside of the picture; an angle
    beyond its limit; `not_selected` where another face of the image was preferred, the first of equals.

    What is not a number fails its limit, be it 180 degrees, so that a kept face can always be aligned.
    """
    limits_deg = np.array([options.max_yaw_deg, options.max_pitch_deg, options.max_roll_deg])
    within_deg = np.abs(angles_deg).reshape(-1, 3) <= limits_deg
    passed = {
        "score": np.asarray(scores) >= options.min_score,
        "outside": _eyes_inside(landmarks, image_wh),
        "small": np.asarray(interocular_px) >= options.min_interocular_px,
        "yaw": within_deg[:, 0],
        "pitch": within_deg[:, 1],
        "roll": within_deg[:, 2],
    }
    candidates = np.flatnonzero(np.all(list(passed.values()), axis=0))
    passed["not_selected"] = np.isin(np.arange(len(boxes)), _select(candidates, boxes, scores, image_wh, options.keep))
    return tuple(
        next((reason for reason in VERDICT_REASONS if not passed[reason][face]), "") for face in range(len(boxes))
    )


def _eyes_inside(landmarks: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray:
    """Whether both eyes lie on the picture's area, half a pixel beyond the outer pixel centres: (N, 5, 2) -> (N,)."""
    eyes = np.asarray(landmarks).reshape(-1, 5, 2)[:, :2]
    return np.all((eyes >= -0.5) & (eyes <= np.array(image_wh) - 0.5), axis=(1, 2))


def _select(
    candidates: np.ndarray, boxes: np.ndarray, scores: np.ndarray, image_wh: tuple[int, int], keep: Keep
) -> np.ndarray:
    """The candidates to keep: indices (M,) -> all of them, or one, or none where M = 0."""
    if keep == "all" or len(candidates) == 0:
        return candidates
    corners = np.asarray(boxes, dtype=np.float64)[candidates]
    if keep == "largest":
        preference = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    elif keep == "center":
        middle = (np.array(image_wh) - 1) / 2
        preference = -np.linalg.norm((corners[:, :2] + corners[:, 2:]) / 2 - middle, axis=1)
    else:
        preference = np.asarray(scores)[candidates]
    return candidates[[np.argmax(np.nan_to_num(preference, nan=-np.inf))]]
