"""The files behind some rows, read again from the archive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from facemill.pipeline.outputs import Output
from facemill.pipeline.plan import Plan
from facemill.pipeline.report.fetching import Source
from facemill.transforms.ops.reading import ReadOptions, printable, read_unit, split_source
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

_MAX_BYTES_LOCAL = 1 << 30
_MAX_BYTES_REMOTE = 128 << 20


class _TooMuchError(Exception):
    """A place has been read as far as is worth it for some pictures."""


@dataclass
class _Allowance:
    """How many bytes may still be read from a place."""

    num_bytes: int


def find_originals(
    output: Output,
    plan: Plan,
    rows: Iterable[Mapping[str, Any]],
    *,
    storage_options: Mapping[str, Any],
    notes: list[str],
) -> list[Source]:
    """Sources of the `ImageRecord`s behind rows of images or faces, a unit each; few bytes are read for many rows.

    Input roots that are gone, and rows that the plan does not know, are told in `notes`.
    """
    wanted: dict[str, set[str]] = {}
    for row in rows:
        wanted.setdefault(row["unit"], set()).add(row["image_id"])
    known = set(plan.names)
    roots = {name: Folder(uri, storage_options) for name, uri in output.manifest.inputs.items()}
    allowances: dict[str, _Allowance | None] = {}
    sources = []
    for unit in plan.units(sorted(name for name in wanted if name in known)):
        root = split_source(unit.sources[0])[0]
        if root not in allowances:
            problem = _problem_of(root, roots)
            allowances[root] = None if problem else _Allowance(_max_bytes(roots[root]))
            notes += [problem] if problem else []
        allowance = allowances[root]
        if allowance is not None:
            read = partial(_read, unit, wanted[unit.name], roots, output.config.read, allowance)
            sources.append(Source(f"The input {root}", read))
    return sources


def _problem_of(name: str, roots: Mapping[str, Folder]) -> str | None:
    """Why nothing can be read from an input root, as far as a look tells."""
    if name not in roots:
        return f"The input {name} is not in the manifest, so its pictures are missing."
    root = roots[name]
    try:
        is_gone = root.is_local and not root.exists("")
    except Exception as error:  # the driver of a store may be missing, or refuse its options in a way of its own
        return f"The input {name} could not be read: {error or type(error).__name__}"
    return f"The input {name} ({root.uri}) is not there any more, so its pictures are missing." if is_gone else None


def _max_bytes(root: Folder) -> int:
    return _MAX_BYTES_LOCAL if root.is_local else _MAX_BYTES_REMOTE


def _read(
    unit: Unit, wanted: set[str], roots: Mapping[str, Folder], options: ReadOptions, allowance: _Allowance
) -> Iterator[ImageRecord]:
    """The wanted images of a unit; of loose files nothing else is read, of a shard what lies before them."""
    missing = set(wanted)
    unit = _only(unit, wanted) if unit.kind == "files" else unit
    with contextlib.closing(read_unit(unit, roots, options)) as records:  # type: ignore[type-var]
        for record in records:
            allowance.num_bytes -= record.num_bytes
            if allowance.num_bytes < 0:
                raise _TooMuchError("too many bytes would have to be read for the pictures that are missing")
            if record.image_id in missing:
                missing.discard(record.image_id)
                yield record
            if not missing:
                return


def _only(unit: Unit, wanted: set[str]) -> Unit:
    """A unit of loose files with those alone that are wanted."""
    pairs = [pair for pair in zip(unit.sources, unit.sizes, strict=True) if printable(pair[0]) in wanted]
    return replace(unit, sources=tuple(s for s, _ in pairs), sizes=tuple(n for _, n in pairs))
