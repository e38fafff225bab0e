"""Making the report of an output folder: gather, sample, take pictures, fill the page, write it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

import duckdb

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.errors import brief
from facemill.pipeline.outputs import Output, open_output
from facemill.pipeline.plan import read_plan
from facemill.pipeline.report.counts import Counts, count_outcomes
from facemill.pipeline.report.duplicates import Duplicates, find_outdated, read_duplicates
from facemill.pipeline.report.histograms import make_histograms, measured_columns
from facemill.pipeline.report.local_copy import tables_at_hand
from facemill.pipeline.report.page import Facts, render_page
from facemill.pipeline.report.people import count_people
from facemill.pipeline.report.pictures import take_pictures
from facemill.pipeline.report.sample import draw_samples
from facemill.pipeline.report.speed import sum_speed
from facemill.pipeline.summary import read_summaries
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.credentials import redact
from facemill.transforms.ops.layout import DUPLICATES, REPORT
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tables import FACES_SCHEMA

_MEMORY = "1GB"


@dataclass(frozen=True)
class ReportOptions:
    """How a report is made.

    Attributes:
        seed: Of the samples.
        num_samples: At most so many pictures of each outcome.
        seconds: At most so long pictures are read.
        storage_options: For the file systems of the inputs.
    """

    seed: int = 0
    num_samples: int = 24
    seconds: float = 20.0
    storage_options: Mapping[str, Any] = field(default_factory=dict)


def make_report(
    folder: Folder,
    options: ReportOptions | None = None,
    *,
    target: tuple[Folder, str] | None = None,
    err: TextIO | None = None,
) -> str:
    """Write the report of an output folder, by default into it; returns where it is.

    `err`, by default standard error, is told what the page goes without.

    The same output, options and facemill give the same bytes, unless pictures could not be read in time.

    Raises:
        ConfigError: There is no output folder, or nothing in it yet.
        OutputError: Its tables cannot be read, or the report not be written.
    """
    output = open_output(folder)
    if not output.units:
        raise ConfigError(f"{folder.uri} holds nothing to report on yet: no unit is committed")
    try:
        page = render_page(_gather(output, options or ReportOptions(), err or sys.stderr))
    except duckdb.Error as error:
        raise output.unreadable(error) from error
    place, name = target or (folder, REPORT)
    place.write_bytes(name, page)
    return place.shown(name)


def _gather(output: Output, options: ReportOptions, err: TextIO) -> Facts:
    summaries = read_summaries(output.folder, output.units)
    plan = read_plan(output.folder)
    with tables_at_hand(output) as tables:
        with _connect(tables) as connection:
            output.check_rows(connection)
            counts = count_outcomes(connection)
            people = count_people(connection)
            limits = output.config.to_tree()["judge"]
            histograms = make_histograms(connection, measured_columns(FACES_SCHEMA), limits)
            duplicates = _duplicates(output, tables, connection, err)
        samples = draw_samples(tables, summaries, seed=options.seed, num_samples=options.num_samples)
    notes: list[str] = []
    pictures = take_pictures(
        output,
        plan,
        [
            *(row for sample in samples for row in sample.rows),
            *(row for found in duplicates for group in found.groups for row in group.rows),
        ],
        storage_options=options.storage_options,
        seconds=options.seconds,
        notes=notes,
    )
    return Facts(
        name=output.folder.uri.rstrip("/").rsplit("/", 1)[-1],
        uri=redact(output.folder.uri),
        manifest=output.manifest,
        counts=counts,
        num_units=len(output.units),
        num_planned_units=len(plan),
        num_capped=sum(summary.num_capped for summary in summaries),
        is_balanced=_is_balanced(counts, summaries),
        people=people,
        speed=sum_speed(summaries),
        histograms=histograms,
        samples=samples,
        duplicates=duplicates,
        is_outdated=find_outdated(output, duplicates),
        pictures=pictures,
        notes=[redact(note) for note in dict.fromkeys(notes)],
        seed=options.seed,
    )


def _duplicates(output: Output, tables: Output, connection: duckdb.DuckDBPyConnection, err: TextIO) -> list[Duplicates]:
    """What was found of duplicates; nothing but a warning where its tables are damaged."""
    try:
        return read_duplicates(tables, connection)
    except (OutputError, duckdb.Error) as damage:
        place, uri = redact(output.folder.shown(DUPLICATES)), redact(output.folder.uri)
        why = f"the tables in {place} cannot be read ({redact(brief(damage))})"
        err.write(f"warning: the report lacks the duplicates, as {why}; facemill duplicates {uri} makes them anew\n")
        return []


@contextmanager
def _connect(output: Output) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables, to be asked with bounded memory."""
    connection = output.connect()
    try:
        with tempfile.TemporaryDirectory() as spill:
            connection.execute(f"set memory_limit = '{_MEMORY}'")
            connection.execute("set temp_directory = ?", [spill])
            connection.execute("set threads = 1")  # quantiles depend on the order in which threads put them together
            yield connection
    finally:
        connection.close()


def _is_balanced(counts: Counts, summaries: Sequence[UnitSummary]) -> bool:
    """Whether the tables hold what the commit markers say."""
    return (counts.num_images(), counts.num_faces(), counts.num_faces("kept")) == (
        sum(summary.num_images for summary in summaries),
        sum(summary.num_faces for summary in summaries),
        sum(summary.num_kept for summary in summaries),
    )
