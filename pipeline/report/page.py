"""The page: a template filled with what was gathered, in one file that needs nothing else and runs nothing foreign."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
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
from facemill.pipeline.report.rows import RowKey
from facemill.pipeline.report.sample import Sample
from facemill.pipeline.report.sheets import all_tiles, count_tiles, lay_out_families, lay_out_sheets
from facemill.pipeline.report.speed import Speed
from facemill.transforms.ops.credentials import redact

_PACKAGE = "facemill.pipeline.report"
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
        is_outdated: Whether that was done in other tables.
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
    is_outdated: bool
    pictures: Mapping[RowKey, Picture]
    notes: Sequence[str]
    seed: int


@dataclass(frozen=True)
class Setting:
    """A value of the configuration, and the default where that is another one."""

    key: str
    value: str
    default: str | None


def render_page(facts: Facts) -> bytes:
    """The page as UTF-8."""
    sheets = lay_out_sheets(facts.samples, facts.counts, facts.pictures)
    families = lay_out_families(facts.duplicates, facts.pictures)
    settings = _settings(facts.manifest.config)
    style, script = _asset("report.css"), _asset("report.js")
    page = (
        make_environment()
        .from_string(_asset("report.html.jinja"))
        .render(
            facts=facts,
            counts=facts.counts,
            diagram=lay_out_flow(facts.counts),
            sheets=sheets,
            tabs=count_tiles(sheets),
            settings=settings,
            changed=_changed(settings),
            inputs={name: redact(uri) for name, uri in facts.manifest.inputs.items()},
            sources=_sources(facts.manifest),
            families=families,
            rows=describe_rows({tile.key: tile.row for tile in all_tiles(sheets, families)}),
            style=Markup(style),
            style_hash=_hash(style),
            script=Markup(script),
            script_hash=_hash(script),
        )
    )
    return page.encode("utf-8", "backslashreplace")


def make_environment() -> jinja2.Environment:
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


def _sources(manifest: Manifest) -> dict[str, str]:
    """Other outputs that this one goes back to, by what it has of them."""
    uris = {"faces of": manifest.tables, "judged anew, of": manifest.filtered, "crops in": manifest.crops_from}
    return {title: redact(uri) for title, uri in uris.items() if uri}


def _settings(config: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Setting]]:
    """The configuration by section."""
    defaults = Config().to_tree()
    return {
        section: [_setting(key, value, defaults.get(section, {}).get(key)) for key, value in values.items()]
        for section, values in config.items()
    }


def _setting(key: str, value: Any, default: Any) -> Setting:
    return Setting(key, _spell(value), None if value == default else _spell(default))


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
