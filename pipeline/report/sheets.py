"""The pictures as the page lays them out: sheets of tiles, one for each outcome, and families of duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from facemill.pipeline.report import text, words
from facemill.pipeline.report.counts import Counts
from facemill.pipeline.report.duplicates import Duplicates
from facemill.pipeline.report.pictures import Picture
from facemill.pipeline.report.rows import Row, RowKey, key_of
from facemill.pipeline.report.sample import GROUPS, Group, Sample, Stratum, is_number
from facemill.transforms.ops.credentials import redact

_TIMES = "\N{MULTIPLICATION SIGN}"

Pictures = Mapping[RowKey, Picture]


@dataclass(frozen=True)
class Tile:
    """A sampled row as the page shows it: its place in links, and its picture or none."""

    key: str
    row: Row
    picture: Picture | None
    caption: str
    root: str


@dataclass(frozen=True)
class Sheet:
    """The tiles of one stratum."""

    stratum: Stratum
    title: str
    meaning: str
    num_rows: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Family:
    """The tiles of one group of duplicates."""

    key: str
    size: int
    num_labels: int
    tiles: tuple[Tile, ...]


def lay_out_sheets(samples: Sequence[Sample], counts: Counts, pictures: Pictures) -> list[Sheet]:
    """A sheet for each sample."""
    return [
        Sheet(
            stratum=sample.stratum,
            title=words.title_of(sample.stratum),
            meaning=words.meaning_of(sample.stratum),
            num_rows=_num_rows(counts, sample.stratum),
            tiles=tuple(
                _tile(f"{sample.stratum.key}-{number}", row, _caption(row, sample.stratum), pictures)
                for number, row in enumerate(sample.rows, start=1)
            ),
        )
        for sample in samples
    ]


def _num_rows(counts: Counts, stratum: Stratum) -> int:
    count = counts.num_faces if stratum.is_of_faces else counts.num_images
    return count(stratum.group, reason=stratum.reason or None)


def _tile(key: str, row: Row, caption: str, pictures: Pictures) -> Tile:
    return Tile(key, row, pictures.get(key_of(row)), caption, row["image_id"].partition("/")[0])


def _caption(row: Row, stratum: Stratum) -> str:
    """The number that decided, why an input failed, or its size."""
    decisive = stratum.decisive(row)
    if decisive is not None:
        column, value = decisive
        return f"{words.name_of(column).lower()} {words.with_unit(text.measure(value), column)}"
    if stratum.group == "failed":
        return redact(row["message"] or "")
    return f"{row['format']} {row['width']:,} {_TIMES} {row['height']:,}" if is_number(row["width"]) else ""


def lay_out_families(duplicates: Sequence[Duplicates], pictures: Pictures) -> dict[str, list[Family]]:
    """The groups of duplicates by their table."""
    return {
        found.table: [
            Family(
                f"duplicate-{found.table}-{number}",
                group.size,
                group.num_labels,
                tuple(
                    _tile(f"duplicate-{found.table}-{number}-{member}", row, _family_caption(row), pictures)
                    for member, row in enumerate(group.rows, start=1)
                ),
            )
            for number, group in enumerate(found.groups, start=1)
        ]
        for found in duplicates
    }


def _family_caption(row: Row) -> str:
    """Whether it is the one to keep, or how far a near face is from that; the label, and the name of the file."""
    role = "stays" if row["place"] == 1 else f"distance {row['distance']}" if row["distance"] else ""
    return ", ".join(filter(None, (role, row["label"], row["image_id"].rpartition("/")[2])))


def all_tiles(sheets: Sequence[Sheet], families: Mapping[str, Sequence[Family]]) -> Iterator[Tile]:
    """Every tile of the page."""
    for sheet in sheets:
        yield from sheet.tiles
    for family in chain.from_iterable(families.values()):
        yield from family.tiles


def count_tiles(sheets: Sequence[Sheet]) -> list[tuple[Group, str, int]]:
    """The groups that have tiles: name, title, and the number of these."""
    sums = {group: sum(len(sheet.tiles) for sheet in sheets if sheet.stratum.group == group) for group in GROUPS}
    return [(group, words.title_of(Stratum(group)), count) for group, count in sums.items() if count]
