"""The rows behind the pictures, as the page shows them when a picture is opened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from facemill.pipeline.report.text import shortened, visible
from facemill.transforms.ops.credentials import redact
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA

MAX_BYTES = 800_000  # of all rows of the page
_MAX_LENGTHS = (5000, 1000, 400, 150, 60, 20)  # of one value
_POINTS = ("left eye", "right eye", "nose", "left mouth", "right mouth")

Tables = list[list[Any]]  # title, and pairs of name and value


def describe_rows(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Tables]:
    """Names and values of the columns of each row, for JSON; long texts are cut where all would be too much."""
    described: dict[str, Tables] = {}
    for max_length in _MAX_LENGTHS:
        described = {key: _describe(row, max_length) for key, row in rows.items()}
        if len(json.dumps(described)) <= MAX_BYTES:
            break
    return described


def _describe(row: Mapping[str, Any], max_length: int) -> Tables:
    is_face = "face_id" in row
    of_face = [name for name in FACES_SCHEMA.names if is_face and name in row]
    of_image = [name for name in IMAGES_SCHEMA.names if name in row and name not in of_face]
    tables: Tables = [["Face", _values(row, of_face, max_length)]] if is_face else []
    return [*tables, ["Input", _values(row, of_image, max_length)]]


def _values(row: Mapping[str, Any], names: Iterable[str], max_length: int) -> list[list[Any]]:
    return [[name, _value(name, row[name], max_length)] for name in names]


def _value(name: str, value: Any, max_length: int) -> Any:
    """None, or the value as text."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if name == "landmarks":
        pairs = zip(value[::2], value[1::2], strict=False)
        return ",\n".join(f"{point} {_number(x)} {_number(y)}" for point, (x, y) in zip(_POINTS, pairs, strict=False))
    return shortened(visible(redact(str(value))), max_length)


def _number(value: float) -> str:
    """The fewest digits that give the float32 of the table."""
    return str(np.float32(value))
