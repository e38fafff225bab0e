"""Reading tar shards, plain or gzipped, member by member."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import (
    SIDECAR_EXTENSIONS,
    Member,
    ReadLimits,
    ShardRange,
    UniqueNames,
    check_member_size,
    failed_member,
    failed_shard,
    file_size,
    folder_label,
    is_ignored,
    member_of,
)
from facemill.transforms.ops.sources import ByteSource, GzipSource, PlainSource, is_gzipped
from facemill.transforms.ops.tar_headers import TarEntry, tar_entries
from facemill.transforms.ops.tar_samples import SampleBounds, sample_label, sidecar_of


def iterate_tar(
    file: BinaryIO,
    *,
    limits: ReadLimits,
    ignored_extensions: Collection[str] = SIDECAR_EXTENSIONS,
    label_column: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Member]:
    """The inputs of a seekable tar file whose headers lie in [start, stop) bytes; a gzipped one is read whole.

    What is wrong with the archive ends it with a member without name; an OSError of `file` passes through.
    """
    names, bounds = UniqueNames(), SampleBounds()
    held: list[Member] = []
    sidecars: dict[str, bytes] = {}
    failed: list[Member] = []
    try:
        size = file_size(file)
        if size == 0:
            raise BadInputError("empty", "the file has no bytes")
        gzipped = is_gzipped(file)
        source = GzipSource(file, limits) if gzipped else PlainSource(file, start)
        for entry in tar_entries(source, None if gzipped or stop is None or stop >= size else stop):
            if not _may_belong_to_sample(entry):
                continue
            if bounds.begins_sample(entry):
                yield from _labelled(held, sidecars, label_column)
                held, sidecars = [], {}
            if not is_ignored(entry.name, ignored_extensions):
                held.append(_member(source, entry, names.add(entry.name), limits))
            elif ending := sidecar_of(entry):
                content = source.read(entry.size)
                if len(content) == entry.size:  # else the file is cut here, which the next entry tells
                    sidecars[ending] = content
    except BadInputError as error:
        failed = [failed_shard(error)]
    yield from _labelled(held, sidecars, label_column)
    yield from failed


def split_tar(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Byte ranges of about `target_bytes`, by one pass over the headers.

    One range where parts cannot be read on their own: gzipped, or with names that repeat (they are numbered in order).
    No sample of WebDataset is cut.
    """
    size = file_size(file)
    whole = [ShardRange(0, size, size)]
    if is_gzipped(file):
        return whole
    names, samples = UniqueNames(), SampleBounds()
    bounds = [0]
    try:
        for entry in tar_entries(PlainSource(file, 0), None):
            if not entry.is_folder and names.add(entry.name) != entry.name:
                return whole
            begins = _may_belong_to_sample(entry) and samples.begins_sample(entry)
            if begins and entry.offset - bounds[-1] >= target_bytes:
                bounds.append(entry.offset)
    except BadInputError:
        pass  # the last range reaches to the end of the file, so its reader meets and reports the same damage
    return [ShardRange(first, last, last - first) for first, last in pairwise([*bounds, size])]


def _may_belong_to_sample(entry: TarEntry) -> bool:
    return not entry.is_folder and not is_ignored(entry.name, ())


def _labelled(members: Sequence[Member], sidecars: Mapping[str, bytes], label_column: str | None) -> Iterator[Member]:
    """The images of a sample, with the label that its other files say."""
    label = sample_label(sidecars, label_column) if sidecars else None
    for member in members:
        yield member if label is None else replace(member, own_label=label)


def _member(source: ByteSource, entry: TarEntry, name: str, limits: ReadLimits) -> Member:
    label = folder_label(entry.name)
    if entry.problem is not None:
        return failed_member(name, "read_error", f"{entry.problem}, not a regular file", label=label)
    if failure := check_member_size(entry.size, limits):
        return Member(name, None, label, failure)
    data = source.read(entry.size)
    if len(data) < entry.size:
        raise BadInputError("truncated", f"cut short within {entry.name[:200]!r}")
    return member_of(name, data, label=label)
