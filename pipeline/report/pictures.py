"""Small pictures of sampled rows: kept faces from their crops, all else from the originals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from facemill.models.errors import BadInputError
from facemill.pipeline.outputs import Output
from facemill.pipeline.plan import Plan
from facemill.pipeline.report.fetching import Source, fetch
from facemill.pipeline.report.originals import find_originals
from facemill.pipeline.report.rows import Row, RowKey, key_of
from facemill.transforms.ops.alignment import CropError, crop_matrix, transform_points
from facemill.transforms.ops.decoding import read_header
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.templates import Template
from facemill.transforms.ops.thumbnails import View, encode_within, show, show_damaged, view_of_face, view_of_whole

SIDE_PX = 160
_ALL_BYTES = 2_000_000  # of all pictures of the page together
_MAX_BYTES = 12_000  # of one
_DAMAGED = frozenset({"truncated", "decode_error"})

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Picture:
    """A JPEG file, and what is drawn over it: the corners of the box and the points, px of `size_wh`."""

    jpeg: bytes
    size_wh: tuple[int, int]
    box: Points = ()
    points: Points = ()


def take_pictures(
    output: Output,
    plan: Plan,
    rows: Sequence[Row],
    *,
    storage_options: Mapping[str, Any],
    seconds: float,
    notes: list[str],
) -> dict[RowKey, Picture]:
    """Pictures of rows, as far as they can be had within about so many seconds; what is in the way is told in `notes`.

    All of them together take a bounded number of bytes.
    """
    deadline = time.monotonic() + seconds
    max_bytes = min(_MAX_BYTES, _ALL_BYTES // max(1, len(rows)))
    pictures: dict[RowKey, Picture] = {}
    template = output.config.align.find_templates()[0]
    notes_on_crops: list[str] = []
    for row, content in fetch(_crop_sources(output, rows), seconds=seconds, notes=notes_on_crops):
        picture = _picture_of_crop(row, content, template, max_bytes)
        if picture is not None:
            pictures[key_of(row)] = picture
    wanted: dict[str, list[Row]] = {}
    for row in rows:
        if key_of(row) not in pictures and _can_be_seen(row):
            wanted.setdefault(row["image_id"], []).append(row)
    of_wanted = [row for rows in wanted.values() for row in rows]
    sources = find_originals(output, plan, of_wanted, storage_options=storage_options, notes=notes)
    for record in fetch(sources, seconds=max(0.0, deadline - time.monotonic()), notes=notes):
        shown = _pictures_of_original(record, wanted[record.image_id], output.config.decode.max_pixels, max_bytes)
        pictures.update(shown)
    if any(row.get("crop") and key_of(row) not in pictures for row in rows):  # and the original is no way out
        notes += notes_on_crops
    num_missing = sum(key_of(row) not in pictures and row["status"] != "failed" for row in rows)
    if num_missing and not notes:
        notes.append(f"Of {num_missing:,} the files are gone, or are not those any more that the tables tell of.")
    return pictures


def _can_be_seen(row: Row) -> bool:
    return row["status"] != "failed" or row["reason"] == "too_small" or row["reason"] in _DAMAGED


def _crop_sources(output: Output, rows: Sequence[Row]) -> list[Source]:
    """Sources of rows and the encoded crop of each, a unit each."""
    by_unit: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.get("crop"):
            by_unit.setdefault(row["unit"], {})[row["crop"]] = row
    return [
        Source(f"The crops of {unit}", partial(_read_crops, output, unit, by_unit[unit])) for unit in sorted(by_unit)
    ]


def _read_crops(output: Output, unit: str, rows: Mapping[str, Row]) -> Iterator[tuple[Row, bytes]]:
    num_missing = len(rows)
    for name, content in output.crops(unit, output.templates[0]):
        if name in rows:
            yield rows[name], content
            num_missing -= 1
            if not num_missing:
                return


def _picture_of_crop(row: Row, content: bytes, template: Template, max_bytes: int) -> Picture | None:
    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        return None
    height, width = bgr.shape[:2]
    if max(height, width) > SIDE_PX:
        scale = SIDE_PX / max(height, width)
        bgr = cv2.resize(bgr, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    jpeg = encode_within(bgr[:, :, ::-1], max_bytes)
    try:
        matrix = crop_matrix(template, _corners(row).ravel(), _landmarks(row), (row["width"], row["height"]))
    except CropError:  # of a table that was changed
        return Picture(jpeg, (width, height))
    return Picture(jpeg, (width, height), points=_moved(matrix, _landmarks(row)))  # the crop hides most of the box


def _pictures_of_original(
    record: ImageRecord, rows: Sequence[Row], max_pixels: int, max_bytes: int
) -> dict[RowKey, Picture]:
    """Pictures of the rows of one file; none where it is not the file any more that the rows tell of."""
    if record.data is None:
        return {}
    if rows[0]["reason"] in _DAMAGED and rows[0]["status"] == "failed":
        image = show_damaged(record.data, max_pixels=max_pixels, side_px=SIDE_PX)
        if image is None:
            return {}
        return {key_of(row): Picture(encode_within(image, max_bytes), image.shape[1::-1]) for row in rows}
    try:
        header = read_header(record.data)
        image_wh = (header.width, header.height)
        if image_wh != (rows[0]["width"], rows[0]["height"]):
            return {}
        views = [_view(row, image_wh) for row in rows]
        images = show(record.data, header, views, max_pixels=max_pixels)
    except BadInputError:
        return {}
    return {
        key_of(row): _picture(row, image, view, max_bytes) for row, image, view in zip(rows, images, views, strict=True)
    }


def _view(row: Row, image_wh: tuple[int, int]) -> View:
    try:
        return view_of_face(_corners(row).ravel(), image_wh, side_px=SIDE_PX)
    except (KeyError, ValueError):  # an input, or a box that is no box
        return view_of_whole(image_wh, side_px=SIDE_PX)


def _picture(row: Row, image: np.ndarray, view: View, max_bytes: int) -> Picture:
    jpeg = encode_within(image, max_bytes)
    if not key_of(row).is_face:
        return Picture(jpeg, view.size_wh)
    (x1, y1), (x2, y2) = _corners(row)
    box = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    return Picture(jpeg, view.size_wh, _moved(view.matrix, box), _moved(view.matrix, _landmarks(row)))


def _moved(matrix: np.ndarray, points: np.ndarray) -> Points:
    """Points of the original as the picture has them; none where one of them is nowhere."""
    moved = transform_points(matrix, points)
    return tuple((float(x), float(y)) for x, y in moved) if np.isfinite(moved).all() else ()


def _corners(row: Row) -> np.ndarray:
    """(2, 2) px."""
    return np.array([[row["x1"], row["y1"]], [row["x2"], row["y2"]]], dtype=np.float64)


def _landmarks(row: Row) -> np.ndarray:
    """(5, 2) px."""
    return np.array(row["landmarks"], dtype=np.float64).reshape(5, 2)
