"""Rows of the tables as dictionaries; those of faces with the row of their image below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import duckdb

Row = dict[str, Any]
Table = Literal["images", "faces"]
ID_COLUMNS: dict[Table, str] = {"images": "image_id", "faces": "face_id"}


class RowKey(NamedTuple):
    """What tells a row from all others: of the table of faces or of inputs, and its id."""

    is_face: bool
    row_id: str


def key_of(row: Row) -> RowKey:
    """The key of a row of faces or of inputs."""
    return RowKey("face_id" in row, row["face_id"] if "face_id" in row else row["image_id"])


def query_rows(connection: duckdb.DuckDBPyConnection, query: str, values: Sequence[Any] = ()) -> list[Row]:
    """The rows that a query gives, by the names of their columns."""
    result = connection.execute(query, list(values))
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def fetch_rows(connection: duckdb.DuckDBPyConnection, table: Table, ids: Sequence[str]) -> list[Row]:
    """The rows of these ids, sorted by them; faces with the columns of their images as well."""
    key = ID_COLUMNS[table]
    rows = query_rows(
        connection, f"select * from {table} where {key} in (select unnest(?::varchar[])) order by {key}", [list(ids)]
    )
    return rows if table == "images" else with_images(connection, rows)


def with_images(connection: duckdb.DuckDBPyConnection, faces: Sequence[Row]) -> list[Row]:
    """Rows of faces laid over those of their images."""
    images = fetch_rows(connection, "images", sorted({face["image_id"] for face in faces}))
    by_id = {image["image_id"]: image for image in images}
    return [{**by_id[face["image_id"]], **face} for face in faces if face["image_id"] in by_id]
