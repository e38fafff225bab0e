"""The flow from inputs to kept faces as a diagram: bars whose heights are counts, and bands between them.

Places along the width are percent of the diagram, so that it fits any screen; heights are px.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from facemill.pipeline.report.counts import Counts
from facemill.pipeline.report.sample import Stratum

_BODY_PX = 300  # the height of all inputs
_MIN_FACES_PX = 120
_MIN_BAR_PX = 2.0
_SLOT_PX = 22  # what a label needs
_GAP_PX = 5
_COLUMNS = (0.0, 31.0, 57.0, 79.0)
_MAX_LEAVES = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the diagram, and its label."""

    x_percent: float
    y: float
    height: float
    label_y: float
    name: str
    count: int
    kind: str  # kept, rejected, no_face, failed, or neutral
    link: str  # of the pictures behind it; empty where there are none


class Band(NamedTuple):
    """What flows from one bar to another: an SVG path of x in percent and y in px."""

    path: str
    kind: str
    title: str


@dataclass(frozen=True)
class Diagram:
    """Bars and bands, and the height of all."""

    height: float
    bars: tuple[Bar, ...]
    bands: tuple[Band, ...]


class _Item(NamedTuple):
    """What a bar stands for; `shares` are the parts of it that come from each bar before."""

    name: str
    kind: str
    link: str
    shares: tuple[int, ...]


def lay_out_flow(counts: Counts) -> Diagram:
    """From the input roots to what was seen in the inputs; from the faces to the verdicts on them."""
    seen = _shown([_seen(counts), *_no_face(counts), *_failed(counts)])
    judged = _shown([_kept(counts), *_rejected(counts)])
    roots = [_Item(root, "neutral", "", (counts.num_images(root=root),)) for root in counts.roots]
    scale = _BODY_PX / max(1, counts.num_images())
    root_bars = _stack(roots, 0, scale)
    seen_bars = _stack(seen, 1, scale)
    bands = _bands(root_bars, seen_bars, seen, scale, scale)
    bars = [*root_bars, *seen_bars]
    if counts.num_faces():
        height = max(seen_bars[0].height, _MIN_FACES_PX)
        faces = Bar(_COLUMNS[2], 0, height, height / 2, "faces", counts.num_faces(), "neutral", "")
        judged_bars = _stack(judged, 3, height / counts.num_faces())
        title = f"{seen_bars[0].count:,} inputs show {counts.num_faces():,} faces"
        bands.append(_band(seen_bars[0], faces, (0, seen_bars[0].height), (0, height), "neutral", title))
        per_face = height / counts.num_faces()
        bands += _bands([faces], judged_bars, judged, per_face, per_face)
        bars += [faces, *judged_bars]
    return Diagram(max(bar.y + max(bar.height, _SLOT_PX) for bar in bars), tuple(bars), tuple(bands))


def _seen(counts: Counts) -> _Item:
    shares = tuple(
        counts.num_images("ok", root=root) + counts.num_images("rejected", root=root) for root in counts.roots
    )
    return _Item("face found", "neutral", "", shares)


def _no_face(counts: Counts) -> list[_Item]:
    shares = tuple(counts.num_images("no_face", root=root) for root in counts.roots)
    return [_Item("no face", "no_face", Stratum("no_face").key, shares)] if any(shares) else []


def _failed(counts: Counts) -> list[_Item]:
    return [
        _Item(
            f"failed: {reason}",
            "failed",
            Stratum("failed", reason).key,
            tuple(counts.num_images("failed", reason=reason, root=root) for root in counts.roots),
        )
        for reason in counts.failure_reasons
    ]


def _kept(counts: Counts) -> _Item:
    return _Item("kept", "kept", Stratum("kept").key, (counts.num_faces("kept"),))


def _rejected(counts: Counts) -> list[_Item]:
    return [
        _Item(
            f"rejected: {reason}",
            "rejected",
            Stratum("rejected", reason).key,
            (counts.num_faces("rejected", reason=reason),),
        )
        for reason in counts.rejection_reasons
    ]


def _shown(items: Sequence[_Item]) -> list[_Item]:
    """The items, the last of too many put together."""
    if len(items) <= _MAX_LEAVES:
        return list(items)
    rest = items[_MAX_LEAVES - 1 :]
    shares = tuple(map(sum, zip(*(item.shares for item in rest), strict=True)))
    return [*items[: _MAX_LEAVES - 1], _Item(f"{len(rest)} more reasons", rest[0].kind, "", shares)]


def _stack(items: Iterable[_Item], column: int, scale: float) -> list[Bar]:
    """Bars from the top down, each with room for its label, beside whose middle it stands."""
    bars = []
    top = 0.0
    for item in items:
        height = max(_MIN_BAR_PX, sum(item.shares) * scale)
        slot = max(height, _SLOT_PX)
        y = top + (slot - height) / 2
        bars.append(Bar(_COLUMNS[column], y, height, top + slot / 2, item.name, sum(item.shares), item.kind, item.link))
        top += slot + _GAP_PX
    return bars


def _bands(
    sources: Sequence[Bar], targets: Sequence[Bar], items: Sequence[_Item], from_scale: float, to_scale: float
) -> list[Band]:
    """A band for each share of each item, side by side in the order of the bars at both ends."""
    left = [0.0] * len(sources)
    bands = []
    for target, item in zip(targets, items, strict=True):
        right = 0.0
        for index, share in enumerate(item.shares):
            if share:
                source = sources[index]
                from_height, to_height = share * from_scale, max(share * to_scale, 1.0)
                title = f"{source.name}: {share:,} {item.name}"
                bands.append(_band(source, target, (left[index], from_height), (right, to_height), item.kind, title))
                left[index] += from_height
                right += to_height
    return bands


def _band(
    source: Bar, target: Bar, left: tuple[float, float], right: tuple[float, float], kind: str, title: str
) -> Band:
    """A band between (offset, height) of two bars, whose ends are level."""
    x0, x1 = source.x_percent, target.x_percent
    middle = (x0 + x1) / 2
    y0, y1 = source.y + left[0], target.y + right[0]
    path = (
        f"M{x0:g} {y0:.1f}C{middle:g} {y0:.1f} {middle:g} {y1:.1f} {x1:g} {y1:.1f}V{y1 + right[1]:.1f}"
        f"C{middle:g} {y1 + right[1]:.1f} {middle:g} {y0 + left[1]:.1f} {x0:g} {y0 + left[1]:.1f}Z"
    )
    return Band(path, kind, title)
