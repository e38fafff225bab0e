"""The faces of an export in their order, streamed from a database on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from facemill.transforms.ops.tables import FACES_SCHEMA

_OF_THE_RUN = frozenset({"unit", "crop", "kept", "reason"})  # depend on the cutting into units, or are the same for all
FACE_COLUMNS = tuple(name for name in FACES_SCHEMA.names if name not in _OF_THE_RUN)
_BATCH_ROWS = 2048


@dataclass
class Counts:
    """How many faces there are, how many each rule took away, and how many remained."""

    faces: int = 0
    kept: int = 0
    unlabelled: int = 0
    duplicates: int = 0
    too_few: int = 0
    identities_too_few: int = 0
    too_many: int = 0
    exported: int = 0
    exported_unlabelled: int = 0
    shared: int = 0  # labelled images with several exported faces


@dataclass(frozen=True)
class SelectedSplit:
    """A split's part of the rows: `[start, start + num_faces)` of the faces, and likewise of the classes."""

    name: str
    start: int
    num_faces: int
    first_class: int
    num_classes: int


@dataclass(frozen=True)
class SelectedClass:
    """A class: an identity, by its index over all splits."""

    index: int
    name: str
    label: str
    split: str
    num_faces: int


@dataclass(frozen=True)
class Selection:
    """The faces of an export, in their order.

    Attributes:
        connection: To a database with the tables `faces` and `classes`.
        counts: What the rules took away.
        splits: Those of the options, none empty.
        digest: Of the faces, their splits and classes: of all columns, as pictures that changed show in the landmarks
            and hashes.
    """

    connection: duckdb.DuckDBPyConnection
    counts: Counts
    splits: tuple[SelectedSplit, ...]
    digest: str

    @property
    def num_faces(self) -> int:
        """Of all splits."""
        return self.counts.exported

    @property
    def num_classes(self) -> int:
        """Of all splits."""
        return sum(split.num_classes for split in self.splits)

    def places(self) -> Iterator[tuple[str, str, int]]:
        """Unit, name of the crop and position of every face, by unit."""
        yield from self._stream("select unit, crop, rowid from faces order by unit")

    def rows(self) -> Iterator[tuple[int, int, str | None, dict[str, Any]]]:
        """Position, class (-1 for none), its name and the face's columns, in the order of the export."""
        columns = ", ".join(f'"{name}"' for name in FACE_COLUMNS)
        for position, index, name, *values in self._stream(f"select rowid, class, class_name, {columns} from faces"):
            yield position, index, name, dict(zip(FACE_COLUMNS, values, strict=True))

    def classes(self) -> Iterator[SelectedClass]:
        """The classes by their index."""
        names = [split.name for split in self.splits]
        for index, name, label, split, num_faces in self._stream(
            "select class, name, identity, split, num_faces from classes order by class"
        ):
            yield SelectedClass(index, name, label, names[split], num_faces)

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        cursor = self.connection.cursor().execute(query)
        while batch := cursor.fetchmany(_BATCH_ROWS):
            yield from batch
