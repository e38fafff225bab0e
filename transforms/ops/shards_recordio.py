"""Reading the image records of MXNet's RecordIO shards, as InsightFace packs its training sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import (
    Member,
    ReadLimits,
    ShardRange,
    StoredRecord,
    failed_member,
    failed_shard,
    file_size,
    member_of,
)
from facemill.transforms.ops.recordio import ImageHeader, iterate_records, unpack_header


def iterate_recordio(
    file: BinaryIO, *, limits: ReadLimits, start: int = 0, stop: int | None = None
) -> Iterator[Member]:
    """The images whose records begin in [start, stop) bytes of a seekable file, named `OFFSET/ID` by their header.

    What InsightFace's records say of identities is no image, and passed over. What is wrong with the file ends it
    with a member without name; an OSError of `file` passes through.
    """
    try:
        for record in iterate_records(file, limits, start=start, stop=stop):
            if (member := _member(record)) is not None:
                yield member
    except BadInputError as error:
        yield failed_shard(error)


def split_recordio(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Byte ranges of `target_bytes`; a reader finds the first record of its range by itself."""
    size = file_size(file)
    bounds = [*range(0, max(1, size - target_bytes), target_bytes), size]
    return [ShardRange(start, stop, stop - start) for start, stop in pairwise(bounds)]


def _member(record: StoredRecord) -> Member | None:
    name = f"{record.offset:012d}"
    if record.data is None:
        return Member(name, failure=record.failure)
    try:
        header, image = unpack_header(record.data)
    except BadInputError as error:
        return failed_member(name, error.reason, error.message)
    if not image and _is_index(header):
        return None
    return member_of(f"{name}/{header.id}", image, label=_label(header.labels[0]))


def _is_index(header: ImageHeader) -> bool:
    """Whether a record without a picture says which ids make up an identity, or (the first one) are identities."""
    if len(header.labels) != 2:
        return False
    first, end = header.labels
    return 0 < first <= end < math.inf and first.is_integer() and end.is_integer()


def _label(value: float) -> str | None:
    if not math.isfinite(value):
        return None
    return str(int(value)) if value.is_integer() else f"{value:.9g}"
