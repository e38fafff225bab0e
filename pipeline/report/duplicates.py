"""What `facemill duplicates` found: how many groups of equal files and of near faces, and some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.duplicates import check_duplicates
from facemill.pipeline.outputs import Output
from facemill.pipeline.report.rows import ID_COLUMNS, Row, Table, fetch_rows
from facemill.transforms.ops.layout import duplicates_name

TABLES: tuple[Table, ...] = ("images", "faces")
_NUM_GROUPS, _NUM_MEMBERS = 6, 6  # that are shown


class Group(NamedTuple):
    """A group of duplicates: its members in all, how many labels they have, and the rows of some members.

    The rows have more than those of their table: their `place`, 1 being the one to keep, and the `distance` from that
    in bits of the perceptual hash.
    """

    size: int
    num_labels: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are equal to the byte, or of faces whose perceptual hashes are near.

    Attributes:
        table: Which of them.
        num_groups: Groups of two or more.
        num_members: Inputs or faces in them.
        num_across: Groups whose members have more than one label.
        groups: Some of them, those across labels first, then the largest.
    """

    table: Table
    num_groups: int
    num_members: int
    num_across: int
    groups: tuple[Group, ...]


def read_duplicates(output: Output, connection: duckdb.DuckDBPyConnection) -> list[Duplicates]:
    """What the folder `duplicates` holds, with rows of the views `images` and `faces`; nothing where there is none.

    Raises:
        OutputError: A table is there, and cannot be read.
    """
    found = []
    for table in TABLES:
        if output.folder.exists(duplicates_name(table)):
            view = f"duplicate_{table}"
            output.add_view(connection, view, [duplicates_name(table)])
            found.append(_read(connection, table, view))
    return found


def find_outdated(output: Output, found: Sequence[Duplicates]) -> bool:
    """Whether duplicates were looked for in other tables than there are now."""
    try:
        for each in found:
            check_duplicates(output, each.table)
    except (ConfigError, OutputError):
        return True
    return False


def _read(connection: duckdb.DuckDBPyConnection, table: Table, view: str) -> Duplicates:
    row_id = ID_COLUMNS[table]
    groups = f'(select "group" as id, count(*) as size, count(distinct label) as num_labels from {view} group by 1)'
    num_groups, num_members, num_across = connection.execute(
        f"select count(*), coalesce(sum(size), 0)::bigint, count(*) filter (num_labels > 1) from {groups}"
    ).fetchall()[0]
    shown = connection.execute(
        f"select id, size, num_labels from {groups} order by num_labels > 1 desc, size desc, id limit {_NUM_GROUPS}"
    ).fetchall()
    distance = "distance" if table == "faces" else "0"
    members = connection.execute(
        f'select "group", {row_id}, {distance}, place from {view} where "group" in (select unnest(?)) '
        f'and place <= {_NUM_MEMBERS} order by "group", place',
        [[group for group, _, _ in shown]],
    ).fetchall()
    rows = {row[row_id]: row for row in fetch_rows(connection, table, [member for _, member, _, _ in members])}

    def rows_of(group: int) -> tuple[Row, ...]:
        found = ((rows.get(member), apart, place) for of, member, apart, place in members if of == group)
        return tuple({**row, "distance": apart, "place": place} for row, apart, place in found if row is not None)

    return Duplicates(
        table,
        num_groups,
        num_members,
        num_across,
        tuple(Group(size, num_labels, rows_of(group)) for group, size, num_labels in shown),
    )
