"""Which rows are shown as pictures: a seeded sample of each outcome, from few units, so that little need be read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from facemill.pipeline.outputs import Output
from facemill.pipeline.report.rows import Row, query_rows, with_images
from facemill.transforms.ops.committing import UnitSummary

Group = Literal["kept", "rejected", "no_face", "failed"]
GROUPS: tuple[Group, ...] = ("kept", "rejected", "no_face", "failed")
MAX_PICTURES = 320  # on the whole page
_MIN_SAMPLES = 4
_MIN_UNITS, _MAX_UNITS = 4, 16  # that one stratum's samples come from, where there are so many
_MAX_UNITS_IN_ALL = 64
# What a face is judged by. Samples are in its order, so that those come first that were decided narrowly.
_JUDGED_BY = {
    "score": ("score",),
    "small": ("interocular_px",),
    "yaw": ("yaw_deg",),
    "pitch": ("pitch_deg",),
    "roll": ("roll_deg",),
    "cropped": ("crop_out",),
    "blurred": ("sharpness",),
    "dark": ("luminance_mean",),
    "bright": ("luminance_mean",),
    "flat": ("luminance_variance",),
    "under_exposed": ("under_exposure",),
    "over_exposed": ("over_exposure",),
    "occluded": ("eye_occlusion", "mouth_occlusion"),
}
_BELOW_LIMIT = frozenset({"score", "small", "blurred", "dark", "flat"})


@dataclass(frozen=True, order=True)
class Stratum:
    """The rows of one outcome: faces that were kept or rejected, or inputs without a face or failed, by reason."""

    group: Group
    reason: str = ""

    @property
    def key(self) -> str:
        """As a part of links: `kept`, `rejected-yaw`."""
        return f"{self.group}-{self.reason}" if self.reason else self.group

    @property
    def is_of_faces(self) -> bool:
        """Whether its rows are faces, and not inputs."""
        return self.group in ("kept", "rejected")

    def decisive(self, row: Row) -> tuple[str, float] | None:
        """The column that decided on a face, and its value; None for inputs, or where there is no number."""
        if not self.is_of_faces:
            return None
        values = [(abs(row[name]), name) for name in _JUDGED_BY.get(self.reason, ("score",)) if is_number(row[name])]
        return None if not values else (max(values)[1], row[max(values)[1]])


@dataclass(frozen=True)
class Sample:
    """Some rows of a stratum: those of the inputs, with those of the faces laid over them, in the order of display."""

    stratum: Stratum
    rows: tuple[Row, ...]


def draw_samples(output: Output, summaries: Sequence[UnitSummary], *, seed: int, num_samples: int) -> list[Sample]:
    """At most `num_samples` rows of each stratum, fewer where there are many strata; by group and size."""
    totals = _totals(summaries)
    if not totals:
        return []
    num_each = min(num_samples, max(_MIN_SAMPLES, MAX_PICTURES // len(totals)))
    units = choose_units(summaries, seed=seed, num_samples=num_each)
    rows = _draw_rows(replace(output, units=units), seed=seed, num_each=num_each)
    order = sorted(totals, key=lambda stratum: (GROUPS.index(stratum.group), -totals[stratum], stratum.reason))
    return [Sample(stratum, tuple(_in_order(stratum, rows.get(stratum, [])))) for stratum in order]


def choose_units(summaries: Sequence[UnitSummary], *, seed: int, num_samples: int) -> tuple[str, ...]:
    """Units that hold enough of every stratum, chosen by chance; sorted.

    The rarest strata choose first, and the others go along with their units as far as these hold them.
    """
    shuffled = sorted(summaries, key=lambda summary: _rank(summary.unit, seed))
    counts = {summary.unit: _strata(summary) for summary in shuffled}
    totals = _totals(summaries)
    chosen: set[str] = set()
    for stratum in sorted(totals, key=lambda stratum: (totals[stratum], stratum)):
        holding = [unit for unit, strata in counts.items() if strata.get(stratum)]
        holding.sort(key=lambda unit: unit not in chosen)
        num_rows = 0
        for place, unit in enumerate(holding[:_MAX_UNITS]):
            is_enough = place >= _MIN_UNITS and num_rows >= num_samples
            if is_enough or (place > 0 and len(chosen) >= _MAX_UNITS_IN_ALL and unit not in chosen):
                break
            chosen.add(unit)
            num_rows += counts[unit][stratum]
    return tuple(sorted(chosen))


def _rank(name: str, seed: int) -> bytes:
    return hashlib.md5(f"{seed}:{name}".encode(), usedforsecurity=False).digest()


def _strata(summary: UnitSummary) -> dict[Stratum, int]:
    counts = {
        Stratum("kept"): summary.num_kept,
        Stratum("no_face"): summary.statuses.get("no_face", 0),
        **{Stratum("rejected", reason): count for reason, count in summary.rejection_reasons.items()},
        **{Stratum("failed", reason): count for reason, count in summary.failure_reasons.items()},
    }
    return {stratum: count for stratum, count in counts.items() if count}


def _totals(summaries: Sequence[UnitSummary]) -> dict[Stratum, int]:
    totals: dict[Stratum, int] = {}
    for summary in summaries:
        for stratum, count in _strata(summary).items():
            totals[stratum] = totals.get(stratum, 0) + count
    return totals


def _draw_rows(output: Output, *, seed: int, num_each: int) -> dict[Stratum, list[Row]]:
    """Rows by stratum, chosen by chance from the units of `output`."""
    connection = output.connect()
    try:
        faces = query_rows(
            connection,
            "select * from faces qualify row_number() over "
            "(partition by kept, reason order by md5(concat(?::varchar, ':', face_id)), face_id) <= ?",
            [seed, num_each],
        )
        images = query_rows(
            connection,
            "select * from images where status in ('no_face', 'failed') qualify row_number() over "
            "(partition by status, reason order by md5(concat(?::varchar, ':', image_id)), image_id) <= ?",
            [seed, num_each],
        )
        faces = with_images(connection, faces)
    finally:
        connection.close()
    drawn: dict[Stratum, list[Row]] = {}
    for face in faces:
        stratum = Stratum("kept") if face["kept"] else Stratum("rejected", face["reason"] or "")
        drawn.setdefault(stratum, []).append(face)
    for image in images:
        drawn.setdefault(Stratum(image["status"], image["reason"] or ""), []).append(image)
    return drawn


def _in_order(stratum: Stratum, rows: Sequence[Row]) -> list[Row]:
    if not stratum.is_of_faces:
        return sorted(rows, key=lambda row: row["image_id"])
    sign = -1 if stratum.reason in _BELOW_LIMIT else 1

    def rank(row: Row) -> tuple[float, str]:
        decisive = stratum.decisive(row)
        return math.inf if decisive is None else sign * abs(decisive[1]), row["face_id"]

    return sorted(rows, key=rank)


def is_number(value: Any) -> bool:
    """Whether a value of a table is a number that can be compared."""
    return isinstance(value, int | float) and math.isfinite(value)
