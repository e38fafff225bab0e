"""What the cascade looks for."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, get_args

from facemill.models.accelerators import AcceleratorChoice
from facemill.models.errors import ConfigError

# P-Net's window; a smaller face would need an enlarged picture.
SMALLEST_FACE_PX = 12
# 0.99 makes some 300 levels of a photograph; closer to 1 there is no end.
_MAX_SCALE_FACTOR = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorOptions:
    """Options of the cascade; a value that cannot work raises ConfigError.

    Args:
        min_face_size_px: Side of the smallest face to look for; time grows with its inverse square.
        min_face_share: The same as a share of the image's shorter side; of the two the larger counts.
        scale_factor: Ratio of two neighbouring levels of the pyramid, in (0, 0.99].
        score_thresholds: What P-Net, R-Net and O-Net must exceed.
        nms_level_threshold: Of two windows of one pyramid level that overlap more (intersection over union) the worse
            one goes.
        nms_image_threshold: The same across levels, and again after R-Net.
        nms_face_threshold: The same after O-Net, with the intersection over the smaller of the two areas.
        max_candidates: At most so many windows, the best, go on from each level and from each image.
        accelerator: What runs the networks; `auto` is CUDA where it works, and else the processor.
    """

    min_face_size_px: float = 20.0
    min_face_share: float = 0.0
    scale_factor: float = 0.709
    score_thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    nms_level_threshold: float = 0.5
    nms_image_threshold: float = 0.7
    nms_face_threshold: float = 0.7
    max_candidates: int = 10_000
    accelerator: AcceleratorChoice = "cpu"

    def __post_init__(self) -> None:
        size = self.min_face_size_px
        _check(_is_number(size) and SMALLEST_FACE_PX <= size < float("inf"), "min_face_size_px", "be 12 or more", size)
        share = self.min_face_share
        _check(_is_number(share) and 0 <= share < 1, "min_face_share", "lie in [0, 1)", share)
        factor = self.scale_factor
        _check(_is_number(factor) and 0 < factor <= _MAX_SCALE_FACTOR, "scale_factor", "lie in (0, 0.99]", factor)
        scores = self.score_thresholds
        _check(_are_three_fractions(scores), "score_thresholds", "be three numbers in [0, 1]", scores)
        for name in ("nms_level_threshold", "nms_image_threshold", "nms_face_threshold"):
            _check(_is_fraction(getattr(self, name)), name, "lie in [0, 1]", getattr(self, name))
        count = self.max_candidates
        _check(isinstance(count, int) and _is_number(count) and count >= 1, "max_candidates", "be 1 or more", count)
        choices = get_args(AcceleratorChoice)
        _check(self.accelerator in choices, "accelerator", f"be one of {', '.join(choices)}", self.accelerator)


def smallest_face_px(options: DetectorOptions, image_wh: tuple[int, int]) -> float:
    """Side of the smallest face to look for in an image of this size, px of that image."""
    return max(options.min_face_size_px, options.min_face_share * min(image_wh))


def _check(is_valid: bool, name: str, rule: str, value: object) -> None:
    if not is_valid:
        raise ConfigError(f"{name} must {rule}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and bool(0 <= value <= 1)


def _are_three_fractions(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) == 3 and all(_is_fraction(value) for value in values)
