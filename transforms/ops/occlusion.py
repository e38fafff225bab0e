"""Hints that something hides the eyes or the mouth, from the colours and the brightness that a face has there."""

from __future__ import annotations

import numpy as np

from facemill.transforms.ops.canonical import Region, values_in

# A side each: around the eye, and the cheek below it.
_EYES: tuple[Region, Region] = ((slice(46, 62), slice(26, 50)), (slice(46, 62), slice(62, 86)))
_BELOW_EYES: tuple[Region, Region] = ((slice(68, 80), slice(28, 44)), (slice(68, 80), slice(68, 84)))
_MIN_LUMA = 20.0  # of 255; a darker cheek says nothing about the eye

_BETWEEN_BROWS: Region = (slice(40, 56), slice(44, 68))  # what masks, hats and hair leave free
_MOUTH: Region = (slice(84, 104), slice(40, 72))
_GREY = 128.0
_MIN_REDNESS = 10.0  # with less a picture is all but grey, and there is no colour that could be missing


def eye_occlusion(luma: np.ndarray, inside: np.ndarray | None) -> float:
    """By how much the brightest of an eye's surroundings falls short of the cheek's brightness: -> [0, 1].

    Takes luma (112, 112) uint8. Lids, white and skin about an eye are as bright as the cheek; sunglasses and patches
    have nothing bright. The 90th percentile about the eye over the median of the cheek below it; of both eyes the one
    that looks more hidden. NaN where neither can be seen.
    """
    hidden = []
    for eye, cheek in zip(_EYES, _BELOW_EYES, strict=True):
        around, below = values_in(luma, eye, inside), values_in(luma, cheek, inside)
        if len(around) and len(below):
            hidden.append(1 - _quantile(around, 0.9) / max(_quantile(below, 0.5), _MIN_LUMA))
    return float(np.clip(max(hidden), 0, 1)) if hidden else np.nan


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.sort(values)[int(share * len(values))])


def mouth_occlusion(redness: np.ndarray, inside: np.ndarray | None) -> float:
    """Which share of the redness of the skin between the brows is missing about the mouth: -> [0, 1].

    Takes the channel Cr of YCrCb, (112, 112) uint8, 128 being grey. Lips and chin are as red as the rest of a face, or
    redder; masks, scarves and dark beards are not. A picture without colours gives no hint: 0. NaN where either region
    cannot be seen.
    """
    brows, mouth = values_in(redness, _BETWEEN_BROWS, inside), values_in(redness, _MOUTH, inside)
    if not (len(brows) and len(mouth)):
        return np.nan
    expected = brows.mean() - _GREY
    return float(np.clip((expected - (mouth.mean() - _GREY)) / max(expected, _MIN_REDNESS), 0, 1))
