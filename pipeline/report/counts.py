"""What came in and what came of it, counted from the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import duckdb

_MAX_ROOTS = 6
_MAX_FORMATS = 12


class Outcome(NamedTuple):
    """What became of an input (`ok`, `rejected`, `no_face`, `failed`) or of a face (`kept`, `rejected`), and why."""

    status: str
    reason: str = ""


class Cell(NamedTuple):
    """An input root and an outcome."""

    root: str
    outcome: Outcome


class Format(NamedTuple):
    """How many inputs had a format; an empty name stands for none that was recognized."""

    name: str
    num_images: int
    num_failed: int


@dataclass(frozen=True)
class Counts:
    """How many inputs and faces had which outcome.

    Attributes:
        roots: The names of the input roots, the largest first; beyond the first few they are one.
        images: Inputs by root and outcome.
        faces: Faces by root and outcome.
        formats: The formats, the most frequent first.
    """

    roots: tuple[str, ...]
    images: Mapping[Cell, int]
    faces: Mapping[Cell, int]
    formats: tuple[Format, ...]

    def num_images(self, status: str | None = None, *, reason: str | None = None, root: str | None = None) -> int:
        """Inputs with this status, reason and root; of all, where nothing is said."""
        return _sum(self.images, status, reason, root)

    def num_faces(self, status: str | None = None, *, reason: str | None = None, root: str | None = None) -> int:
        """Faces with this status, reason and root; of all, where nothing is said."""
        return _sum(self.faces, status, reason, root)

    @property
    def failure_reasons(self) -> list[str]:
        """The reasons of failed inputs, the most frequent first."""
        return _reasons(self.images, "failed")

    @property
    def rejection_reasons(self) -> list[str]:
        """The reasons of faces that were not kept, the most frequent first."""
        return _reasons(self.faces, "rejected")


def count_outcomes(connection: duckdb.DuckDBPyConnection) -> Counts:
    """Count the rows of the views `images` and `faces`."""
    images = connection.execute(
        "select split_part(source, '/', 1), status, coalesce(reason, ''), count(*) from images group by all"
    ).fetchall()
    faces = connection.execute(
        "select split_part(image_id, '/', 1), if(kept, 'kept', 'rejected'), coalesce(reason, ''), count(*) from faces "
        "group by all"
    ).fetchall()
    formats = connection.execute(
        "select coalesce(format, ''), count(*), count(*) filter (status = 'failed') from images group by 1 "
        "order by 2 desc, 1"
    ).fetchall()
    names = _shown_roots(images)
    return Counts(
        roots=tuple(dict.fromkeys(names.values())),
        images=_add_up(images, names),
        faces=_add_up(faces, names),
        formats=_with_others([Format(*row) for row in formats]),
    )


def _shown_roots(images: Iterable[tuple[str, str, str, int]]) -> dict[str, str]:
    """The name under which each root is shown, the largest first."""
    sums: Counter[str] = Counter()
    for root, _, _, count in images:
        sums[root] += count
    names = sorted(sums, key=lambda root: (-sums[root], root))
    if len(names) <= _MAX_ROOTS:
        return {name: name for name in names}
    others = f"{len(names) - _MAX_ROOTS + 1:,} others"
    return {name: name if place < _MAX_ROOTS - 1 else others for place, name in enumerate(names)}


def _add_up(rows: Iterable[tuple[str, str, str, int]], names: Mapping[str, str]) -> dict[Cell, int]:
    sums: Counter[Cell] = Counter()
    for root, status, reason, count in rows:
        sums[Cell(names.get(root, root), Outcome(status, reason))] += count
    return dict(sums)


def _with_others(formats: list[Format]) -> tuple[Format, ...]:
    if len(formats) <= _MAX_FORMATS:
        return tuple(formats)
    rest = formats[_MAX_FORMATS - 1 :]
    others = Format(f"{len(rest)} others", sum(f.num_images for f in rest), sum(f.num_failed for f in rest))
    return (*formats[: _MAX_FORMATS - 1], others)


def _sum(table: Mapping[Cell, int], status: str | None, reason: str | None, root: str | None) -> int:
    return sum(
        count
        for cell, count in table.items()
        if status in (None, cell.outcome.status) and reason in (None, cell.outcome.reason) and root in (None, cell.root)
    )


def _reasons(table: Mapping[Cell, int], status: str) -> list[str]:
    sums: Counter[str] = Counter()
    for cell, count in table.items():
        if cell.outcome.status == status:
            sums[cell.outcome.reason] += count
    return sorted(sums, key=lambda reason: (-sums[reason], reason))
