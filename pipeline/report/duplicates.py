"""What `facemill duplicates` found: how many groups of equal files and of near faces, and some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import duckdb

from facemill.pipeline.outputs import Output
from facemill.pipeline.report.rows import ID_COLUMNS, Table, fetch_rows

Kind = Literal["exact", "near"]

DUPLICATE_TABLES = _OF_IMAGES, _OF_FACES = "duplicates/images.parquet", "duplicates/faces.parquet"
_NUM_GROUPS, _NUM_MEMBERS = 6, 6  # that are shown


class Group(NamedTuple):
    """A group of duplicates: its members in all, how many labels they have, and the rows of some members."""

    size: int
    num_labels: int
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of one kind: files that are equal to the byte, or faces whose perceptual hashes are near.

    Attributes:
        kind: Which.
        num_groups: Groups of two or more.
        num_members: Inputs or faces in them.
        num_across: Groups whose members have more than one label.
        groups: Some of them, those across labels first, then the largest.
    """

    kind: Kind
    num_groups: int
    num_members: int
    num_across: int
    groups: tuple[Group, ...]


def read_duplicates(output: Output, connection: duckdb.DuckDBPyConnection) -> list[Duplicates]:
    """What the folder `duplicates` holds, with rows of the views `images` and `faces`; nothing where there is none.

    Raises:
        OutputError: A table is there, and cannot be read.
    """
    found: list[Duplicates] = []
    if output.folder.exists(_OF_IMAGES):
        output.add_view(connection, "equal_images", [_OF_IMAGES])
        found.append(_read(connection, "exact", "equal_images"))
    if output.folder.exists(_OF_FACES):
        output.add_view(connection, "near_faces", [_OF_FACES])
        found.append(_read(connection, "near", "near_faces"))
    return found


def _read(connection: duckdb.DuckDBPyConnection, kind: Kind, view: str) -> Duplicates:
    table: Table = "images" if kind == "exact" else "faces"
    row_id = ID_COLUMNS[table]
    groups = f'(select "group" as id, count(*) as size, count(distinct label) as num_labels from {view} group by 1)'
    num_groups, num_members, num_across = connection.execute(
        f"select count(*), coalesce(sum(size), 0)::bigint, count(*) filter (num_labels > 1) from {groups}"
    ).fetchall()[0]
    shown = connection.execute(
        f"select id, size, num_labels from {groups} order by num_labels > 1 desc, size desc, id limit {_NUM_GROUPS}"
    ).fetchall()
    members = connection.execute(
        f'select "group", {row_id} from {view} where "group" in (select unnest(?)) '
        f'qualify row_number() over (partition by "group" order by {row_id}) <= {_NUM_MEMBERS} order by 1, 2',
        [[group for group, _, _ in shown]],
    ).fetchall()
    rows = {row[row_id]: row for row in fetch_rows(connection, table, [member for _, member in members])}
    return Duplicates(
        kind,
        num_groups,
        num_members,
        num_across,
        tuple(
            Group(
                size,
                num_labels,
                tuple(rows[member] for group, member in members if group == shown_id and member in rows),
            )
            for shown_id, size, num_labels in shown
        ),
    )
