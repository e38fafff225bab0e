"""Faces that are known already: looked up by image in a Parquet table."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facemill.models.errors import ConfigError
from facemill.transforms.ops.records import KnownRows
from facemill.transforms.ops.storage import Folder

_BOX_COLUMNS = ("x1", "y1", "x2", "y2")
_NUM_CACHED_GROUPS = 8
_LARGEST_PX = 1e30  # of larger boxes float32 makes infinities


@dataclass(frozen=True)
class _RowGroup:
    path: str
    index: int
    first_id: str | None  # None where the file holds no statistics
    last_id: str | None


class KnownFaces:
    """A table of faces with the columns `image_id, x1, y1, x2, y2` and, where it has them, `score` and `landmarks`.

    The faces table of an earlier run is one. Only the row groups whose range of `image_id` fits are read, and the last
    few are remembered, so a table in the order of the images costs little.

    Raises:
        ConfigError: There is no such table, or a column is missing.
    """

    def __init__(self, table: Folder) -> None:
        self._table = table
        self._groups: list[_RowGroup] = []
        self._cache: OrderedDict[_RowGroup, pa.Table] = OrderedDict()
        self.num_rows = 0
        paths = _parquet_paths(table)
        if not paths:
            raise ConfigError(f"no Parquet file of known faces at {table.uri}")
        for path in paths:
            self._index_file(path)

    @staticmethod
    @lru_cache(maxsize=2)
    def load(uri: str, storage_options_json: str = "{}") -> KnownFaces:
        """The table at `uri`, indexed once per process; options are JSON, as nested ones cannot be hashed."""
        return KnownFaces(Folder(uri, json.loads(storage_options_json)))

    def _index_file(self, path: str) -> None:
        with self._table.fs.open(path, "rb") as file:
            try:
                metadata = pq.ParquetFile(file).metadata
            except pa.ArrowInvalid as error:
                raise ConfigError(f"the table of known faces {path} is not readable Parquet: {error}") from error
        names = metadata.schema.to_arrow_schema().names
        missing = [name for name in ("image_id", *_BOX_COLUMNS) if name not in names]
        if missing:
            raise ConfigError(f"the table of known faces {path} lacks the column {missing[0]!r}; it has {names}")
        _check_types(metadata.schema.to_arrow_schema(), path)
        self.num_rows += metadata.num_rows
        column = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == "image_id")
        for index in range(metadata.num_row_groups):
            statistics = metadata.row_group(index).column(column).statistics
            known = statistics is not None and statistics.has_min_max
            first, last = (statistics.min, statistics.max) if known else (None, None)
            self._groups.append(_RowGroup(path, index, first, last))

    def look_up(self, image_ids: Sequence[str]) -> dict[str, KnownRows]:
        """The faces of each of the images, in the order of the table; no rows for an image that it does not name."""
        wanted = pa.array(image_ids, pa.string())
        found: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
        low, high = min(image_ids, default=""), max(image_ids, default="")
        for group in self._groups:
            if not _may_hold(group, low, high):
                continue
            rows = self._read(group)
            for row in rows.filter(pc.is_in(rows["image_id"], value_set=wanted)).to_pylist():
                found[row["image_id"]].append(row)
        return {image_id: _known_rows(rows) for image_id, rows in found.items()}

    def _read(self, group: _RowGroup) -> pa.Table:
        if group not in self._cache:
            with self._table.fs.open(group.path, "rb") as file:
                parquet = pq.ParquetFile(file)
                wanted = ("image_id", *_BOX_COLUMNS, "score", "landmarks")
                columns = [name for name in wanted if name in parquet.schema_arrow.names]
                rows = parquet.read_row_group(group.index, columns=columns)
            ids = rows["image_id"].cast(pa.string())  # other writers have other string types
            self._cache[group] = rows.set_column(rows.schema.get_field_index("image_id"), "image_id", ids)
            if len(self._cache) > _NUM_CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]


def _check_types(schema: pa.Schema, path: str) -> None:
    """Refuse columns that no image could be looked up in, or no box made of; ConfigError names the first."""
    for name in ("image_id", *_BOX_COLUMNS, "score", "landmarks"):
        count = schema.names.count(name)
        if count > 1:
            raise ConfigError(f"the table of known faces {path} has {count} columns {name!r}")
        if not count:
            continue
        kind, wanted = schema.field(name).type, "numbers"
        if name == "image_id":
            kind, wanted = (kind.value_type if pa.types.is_dictionary(kind) else kind), "strings"
            fits = pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
        elif name == "landmarks":
            wanted = "lists of numbers"
            while _is_list(kind):
                kind = kind.value_type
            fits = pa.types.is_null(kind) or (_is_list(schema.field(name).type) and _is_number(kind))
        else:
            fits = _is_number(kind) or (name == "score" and pa.types.is_null(kind))
        if not fits:
            raise ConfigError(
                f"the table of known faces {path} holds {schema.field(name).type} in {name!r}; it must be {wanted}"
            )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _parquet_paths(table: Folder) -> list[str]:
    if table.fs.isfile(table.path):
        return [table.path]
    return sorted(str(path) for path in table.fs.find(table.path) if str(path).endswith(".parquet"))


def _may_hold(group: _RowGroup, low: str, high: str) -> bool:
    return group.first_id is None or group.last_id is None or (group.first_id <= high and low <= group.last_id)


def _has_box(row: dict[str, Any]) -> bool:
    """Some tables say by a row without a box that an image was looked at and holds no face."""
    return all(row[name] is not None and abs(row[name]) <= _LARGEST_PX for name in _BOX_COLUMNS)


def _known_rows(rows: list[dict[str, Any]]) -> KnownRows:
    rows = [row for row in rows if _has_box(row)]
    boxes = np.array([[row[name] for name in _BOX_COLUMNS] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([np.nan if row.get("score") is None else row["score"] for row in rows], np.float32)
    landmarks = np.full((len(rows), 5, 2), np.nan, np.float32)
    for index, row in enumerate(rows):
        if row.get("landmarks"):
            points = np.asarray(row["landmarks"], np.float32)
            if points.size != 10:
                raise ConfigError(f"known faces need 10 values in landmarks, x and y of five points, got {points.size}")
            landmarks[index] = points.reshape(5, 2)
    return KnownRows(boxes, scores, landmarks)
