"""The output folder as a whole: made, found to be whole, swept, and taken back where it failed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from facemill.models.errors import ConfigError, DamagedOutputError
from facemill.pipeline.plan import Plan
from facemill.pipeline.summary import committed_units, read_summaries
from facemill.transforms.ops.committing import digest_marker
from facemill.transforms.ops.credentials import check_no_password, redact
from facemill.transforms.ops.drivers import store_of
from facemill.transforms.ops.layout import (
    CROPS,
    FACES,
    FILES,
    IMAGES,
    MANIFEST,
    MARKERS,
    PLAN,
    marker_name,
    template_folders,
)
from facemill.transforms.ops.storage import Folder

_RETRIED_REASONS = frozenset({"read_error", "internal_error", "empty"})


def check_output(output: Folder) -> None:
    """Refuse an output whose name cannot be meant.

    Raises:
        ConfigError: Says what is wrong with it.
    """
    if not output.uri.strip():
        raise ConfigError("the output has an empty name; for the folder you are in write .")
    check_no_password(output.uri)
    if "::" in output.uri:  # fsspec would write to what stands before it
        raise ConfigError(f"cannot use the output {output.uri}: :: in its name is not supported")
    if store_of(output.uri) == "http":
        raise ConfigError(
            f"cannot use the output {redact(output.uri)}: HTTP is for reading; name a folder or a bucket (s3://, gs://, az://)"
        )
    _ = output.path  # refuses what has no driver


def check_apart(output: Folder, tables: Folder | None) -> None:
    """Refuse to write where the tables are read.

    Raises:
        ConfigError: The two are one folder.
    """
    if tables is not None and place_of(tables) == place_of(output):
        raise ConfigError(f"the output {output.uri} holds the tables that are to be read; choose another folder")


def check_outside(output: Folder, tables: Folder) -> None:
    """Refuse to write a data set into the output folder that it is made from, whose files the commands count on.

    Raises:
        ConfigError: It would lie there.
    """
    if f"{place_of(output)}/".startswith(f"{place_of(tables)}/"):
        raise ConfigError(f"the output {output.uri} lies in {tables.uri}, which is read; choose a folder beside it")


def place_of(folder: Folder) -> str:
    """The folder's one name, whatever way it was named."""
    return os.path.realpath(folder.path) if folder.is_local else str(folder.fs.unstrip_protocol(folder.path))


def make_output(output: Folder) -> None:
    """Make the output folder where it is not there.

    Raises:
        ConfigError: The store refuses.
    """
    try:
        output.make_folder("")
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"cannot make the output folder {output.uri}: {why}") from error


def check_whole(output: Folder, plan: Plan, committed: frozenset[str], *, has_manifest: bool) -> None:
    """Refuse a folder in which nothing says what its committed units are; a killed run never leaves one.

    Raises:
        DamagedOutputError: Names what is missing.
    """
    unplanned = committed - set(plan.names)
    if unplanned:
        raise DamagedOutputError(
            f"{output.join(PLAN)} is incomplete: it lacks {min(unplanned)}, which is committed; "
            "choose a new output folder"
        )
    if len(plan) and not has_manifest:
        raise DamagedOutputError(
            f"{output.join(MANIFEST)} is missing, though units are planned; choose a new output folder"
        )


def sweep_output(output: Folder, templates: Sequence[str]) -> None:
    """Remove what interrupted writers left."""
    for folder in ("", PLAN, IMAGES, FACES, MARKERS):
        output.sweep(folder)
    for template in template_folders(templates):
        output.sweep(f"{CROPS}/{template}".rstrip("/"))
        files = f"{FILES}/{template}".rstrip("/")
        for unit in output.list_names(files):
            output.sweep(f"{files}/{unit}")


def forget_failed(output: Folder, committed: frozenset[str], tables: Folder | None) -> frozenset[str]:
    """Take back the commit of units with failures that may have been passing; returns their names.

    Those that are in `tables` already would only be copied again.
    """
    there = read_summaries(tables, committed & committed_units(tables)) if tables is not None else []
    copied = {summary.unit: Counter(summary.failure_reasons) for summary in there}
    failed = frozenset(
        summary.unit
        for summary in read_summaries(output, committed)
        if _RETRIED_REASONS & (Counter(summary.failure_reasons) - copied.get(summary.unit, Counter())).keys()
    )
    for unit in failed:
        output.remove(marker_name(unit))
    return failed


def forget_changed(output: Folder, tables: Folder, committed: frozenset[str], err: TextIO) -> frozenset[str]:
    """Take back the commit of units that `tables` has done again since; returns their names, and tells `err`."""
    units = sorted(committed & committed_units(tables))
    markers = tables.read_many([marker_name(unit) for unit in units])
    digests = {unit: digest_marker(content) for unit, content in zip(units, markers.values(), strict=True)}
    changed = frozenset(s.unit for s in read_summaries(output, units) if s.source_digest != digests[s.unit])
    for unit in changed:
        output.remove(marker_name(unit))
    if changed:
        err.write(f"{len(changed):,} units were done again in {tables.uri}, and are done again here\n")
    return changed
