"""The page: a template filled with what was gathered, in one file that needs nothing else and runs nothing foreign."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import chain
from typing import Any

import jinja2
from markupsafe import Markup

from facemill.pipeline.config import Config
from facemill.pipeline.manifest import Manifest
from facemill.pipeline.report import text, words
from facemill.pipeline.report.counts import Counts
from facemill.pipeline.report.description import describe_rows
from facemill.pipeline.report.duplicates import Duplicates
from facemill.pipeline.report.flow import lay_out_flow
from facemill.pipeline.report.histograms import Histogram
from facemill.pipeline.report.people import People
from facemill.pipeline.report.pictures import Picture
from facemill.pipeline.report.rows import Row, RowKey, key_of
from facemill.pipeline.report.sample import GROUPS, Group, Sample, Stratum, is_number
from facemill.pipeline.report.speed import Speed
from facemill.transforms.ops.credentials import redact

_PACKAGE = "facemill.pipeline.report"
_TIMES = "\N{MULTIPLICATION SIGN}"
_MAX_NAME = 300  # characters of a name in the text of the page


@dataclass(frozen=True)
class Facts:
    """All that the page tells.

    Attributes:
        name: What the output is called.
        uri: Where it lies.
        manifest: What made it.
        counts: Inputs and faces by outcome.
        num_units: Committed units.
        num_planned_units: Units of the plan.
        num_capped: Candidates that the detector's caps left out.
        is_balanced: Whether the tables hold as many rows as the commit markers say.
        people: The identities.
        speed: What the units took, if that is known.
        histograms: Of the columns of faces.
        samples: Rows to show, by stratum.
        duplicates: Groups of duplicates, if these were looked for.
        pictures: Their pictures, as far as there are any.
        notes: Why others are missing.
        seed: That the samples were drawn with.
    """

    name: str
    uri: str
    manifest: Manifest
    counts: Counts
    num_units: int
    num_planned_units: int
    num_capped: int
    is_balanced: bool
    people: People
    speed: Speed | None
    histograms: Sequence[Histogram]
    samples: Sequence[Sample]
    duplicates: Sequence[Duplicates]
    pictures: Mapping[RowKey, Picture]
    notes: Sequence[str]
    seed: int


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


@dataclass(frozen=True)
class Setting:
    """A value of the configuration, and the default where that is another one."""

    key: str
    value: str
    default: str | None


def render_page(facts: Facts) -> bytes:
    """The page as UTF-8."""
    sheets = _lay_out_sheets(facts)
    families = _lay_out_families(facts)
    settings = _settings(facts.manifest.config)
    style, script = _asset("report.css"), _asset("report.js")
    page = (
        _make_environment()
        .from_string(_asset("report.html.jinja"))
        .render(
            facts=facts,
            counts=facts.counts,
            diagram=lay_out_flow(facts.counts),
            sheets=sheets,
            tabs=_tabs(sheets),
            settings=settings,
            changed=_changed(settings),
            inputs={name: redact(uri) for name, uri in facts.manifest.inputs.items()},
            families=families,
            rows=describe_rows({tile.key: tile.row for tile in _all_tiles(sheets, families)}),
            style=Markup(style),
            style_hash=_hash(style),
            script=Markup(script),
            script_hash=_hash(script),
        )
    )
    return page.encode("utf-8", "backslashreplace")


def _make_environment() -> jinja2.Environment:
    """Templates whose every text is escaped, and shows what is in it."""
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_reveal,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        n=lambda number: f"{number:,}",
        percent=text.percent,
        measure=text.measure,
        duration=text.duration,
        short=lambda value, length=_MAX_NAME: text.shortened(text.visible(str(value)), length),
        data_url=lambda picture: "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode("ascii"),
        column_name=words.name_of,
        column_note=words.note_on,
        with_unit=words.with_unit,
    )
    return environment


def _reveal(value: Any) -> Any:
    """What the template is about to escape and print."""
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a Content-Security-Policy names an inline script or style that may be used."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")


def _lay_out_sheets(facts: Facts) -> list[Sheet]:
    return [
        Sheet(
            stratum=sample.stratum,
            title=words.title_of(sample.stratum),
            meaning=words.meaning_of(sample.stratum),
            num_rows=_num_rows(facts.counts, sample.stratum),
            tiles=tuple(
                _tile(f"{sample.stratum.key}-{number}", row, _caption(row, sample.stratum), facts)
                for number, row in enumerate(sample.rows, start=1)
            ),
        )
        for sample in facts.samples
    ]


def _num_rows(counts: Counts, stratum: Stratum) -> int:
    count = counts.num_faces if stratum.is_of_faces else counts.num_images
    return count(stratum.group, reason=stratum.reason or None)


def _tile(key: str, row: Row, caption: str, facts: Facts) -> Tile:
    return Tile(key, row, facts.pictures.get(key_of(row)), caption, row["image_id"].partition("/")[0])


def _caption(row: Row, stratum: Stratum) -> str:
    """The number that decided, why an input failed, or its size."""
    decisive = stratum.decisive(row)
    if decisive is not None:
        column, value = decisive
        return f"{words.name_of(column).lower()} {words.with_unit(text.measure(value), column)}"
    if stratum.group == "failed":
        return redact(row["message"] or "")
    return f"{row['format']} {row['width']:,} {_TIMES} {row['height']:,}" if is_number(row["width"]) else ""


def _lay_out_families(facts: Facts) -> dict[str, list[Family]]:
    """The groups of duplicates by kind."""
    return {
        found.kind: [
            Family(
                f"{found.kind}-{number}",
                group.size,
                group.num_labels,
                tuple(
                    _tile(f"{found.kind}-{number}-{member}", row, row["label"] or "", facts)
                    for member, row in enumerate(group.rows, start=1)
                ),
            )
            for number, group in enumerate(found.groups, start=1)
        ]
        for found in facts.duplicates
    }


def _all_tiles(sheets: Sequence[Sheet], families: Mapping[str, Sequence[Family]]) -> Iterator[Tile]:
    for sheet in sheets:
        yield from sheet.tiles
    for family in chain.from_iterable(families.values()):
        yield from family.tiles


def _tabs(sheets: Sequence[Sheet]) -> list[tuple[Group, str, int]]:
    """The groups that have tiles: name, title, and the number of these."""
    sums = {group: sum(len(sheet.tiles) for sheet in sheets if sheet.stratum.group == group) for group in GROUPS}
    return [(group, words.title_of(Stratum(group)), count) for group, count in sums.items() if count]


def _settings(config: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Setting]]:
    """The configuration by section."""
    defaults = Config().to_tree()
    return {
        section: [
            Setting(
                key, _spell(value), None if value == defaults[section].get(key) else _spell(defaults[section].get(key))
            )
            for key, value in values.items()
        ]
        for section, values in config.items()
    }


def _changed(settings: Mapping[str, Sequence[Setting]]) -> list[Setting]:
    """The settings that are not the default's, with their sections."""
    return [
        replace(setting, key=f"{section}.{setting.key}")
        for section, values in settings.items()
        for setting in values
        if setting.default is not None
    ]


def _spell(value: Any) -> str:
    spelled = value if isinstance(value, str) else json.dumps(value)
    return text.shortened(text.visible(redact(spelled)), _MAX_NAME)
