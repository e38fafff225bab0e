"""What reasons and columns are called on the page, and what they mean."""

from __future__ import annotations

from facemill.pipeline.report.histograms import FACE_SIZE
from facemill.pipeline.report.sample import Stratum

_GROUPS = {"kept": "Kept", "rejected": "Rejected", "no_face": "No face", "failed": "Failed"}
_MEANINGS = {
    "kept": "Faces that met every limit.",
    "no_face": "Inputs in which the detector found nothing.",
    "rejected-score": "The detector was less sure of them than judge.min_score asks.",
    "rejected-outside": "An eye lies outside of the picture.",
    "rejected-small": "Their eyes are nearer to each other than judge.min_interocular_px.",
    "rejected-yaw": "Turned further to a side than judge.max_yaw_deg.",
    "rejected-pitch": "Looking further up or down than judge.max_pitch_deg.",
    "rejected-roll": "Tilted further than judge.max_roll_deg.",
    "rejected-cropped": "More of the box lies outside of the picture than judge.max_crop_out.",
    "rejected-blurred": "Less sharp than judge.min_sharpness.",
    "rejected-dark": "Darker than judge.min_luminance_mean.",
    "rejected-bright": "Brighter than judge.max_luminance_mean.",
    "rejected-flat": "With less contrast than judge.min_luminance_variance.",
    "rejected-under_exposed": "More of the face is all but black than judge.max_under_exposure.",
    "rejected-over_exposed": "More of the face is all but white than judge.max_over_exposure.",
    "rejected-occluded": "Something seems to hide an eye or the mouth: judge.max_eye_occlusion, max_mouth_occlusion.",
    "rejected-no_crop": "Their box or points determine no crop in one of the templates.",
    "rejected-not_selected": "judge.keep preferred another face of the same picture.",
    "failed-read_error": "Missing, forbidden, encrypted, a link or a device, or in an archive that is damaged.",
    "failed-empty": "Files without a byte.",
    "failed-unsupported_format": "No pictures, or of a format that is not read.",
    "failed-decode_error": "Damaged files.",
    "failed-truncated": "Files that are cut off; what can be seen of them is shown.",
    "failed-too_large": "More pixels than decode.max_pixels, or more bytes than read.max_member_bytes.",
    "failed-too_small": "A side is shorter than decode.min_side_px.",
    "failed-internal_error": "A bug, or files that kept killing their worker; please report them.",
}
_COLUMNS = {FACE_SIZE: "Face size", "interocular_px": "Eye distance"}
_NOTES = {FACE_SIZE: "longer side of the box"}
_UNITS = {"px": "px", "deg": "°"}


def title_of(stratum: Stratum) -> str:
    """`Rejected: yaw`."""
    return f"{_GROUPS[stratum.group]}: {stratum.reason}" if stratum.reason else _GROUPS[stratum.group]


def meaning_of(stratum: Stratum) -> str:
    """A sentence on what the rows have in common; empty for a reason that is not known here."""
    return _MEANINGS.get(stratum.key, "")


def name_of(column: str) -> str:
    """What people call a column: `yaw_deg` -> `Yaw`."""
    if column in _COLUMNS:
        return _COLUMNS[column]
    stem, _, ending = column.rpartition("_")
    words = (stem if ending in _UNITS else column).replace("_", " ")
    return words[:1].upper() + words[1:]


def note_on(column: str) -> str:
    """What a column's name leaves open."""
    return _NOTES.get(column, "")


def unit_of(column: str) -> str:
    """The unit that a column's name ends with: `px`, `°`, or none."""
    return _UNITS.get(column.rpartition("_")[2], "")


def with_unit(number: str, column: str) -> str:
    """A number and the column's unit."""
    unit = unit_of(column)
    return number + unit if unit == "°" else f"{number} {unit}".rstrip()
