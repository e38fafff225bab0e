"""Reading Parquet shards row by row: image bytes in a binary column, or in the `image` struct of Hugging Face.

Memory is bounded by what the writer put into one data page, of which Arrow holds two or three, and by a row group of up
to 64 MiB. The metadata of single columns is left alone: damaged, it makes Arrow (25.0) end the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import (
    Member,
    ReadLimits,
    ShardRange,
    check_member_size,
    failed_member,
    failed_shard,
    file_size,
    member_of,
)
from facemill.transforms.ops.parquet_columns import ParquetColumns, find_columns, is_text

_ROW_COST_BYTES = 256  # what a row without data counts
_MAX_UNBUFFERED_BYTES = 64 * 2**20
_BUFFER_BYTES = 2**20
_MAX_FOOTER_ITEMS = 2**18  # of one list; Arrow allocates what a damaged footer claims
_MAX_FOOTER_STRING_BYTES = 64 * 2**20
_ARROW_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)


class _WatchedFile:
    """Remembers the error of a failing read, which Arrow's own OSErrors for damaged data must not be taken for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.closed = False

    def read(self, num_bytes: int = -1) -> bytes:
        try:
            return self._file.read(num_bytes)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self.error = error
            raise

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Leaves the file open: it belongs to the caller."""
        self.closed = True


def iterate_parquet(
    file: BinaryIO,
    *,
    limits: ReadLimits,
    image_column: str | None = None,
    label_column: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Member]:
    """The rows of the row groups [start, stop) of a seekable Parquet file, numbered within the whole file.

    A file that cannot be opened gives one member without name, a damaged row group one named `row_group_N` in place of
    its remaining rows; an OSError of `file` passes through.
    """
    watched = _WatchedFile(file)
    try:
        parquet = _open(watched)
        with _reading(watched):
            columns = find_columns(parquet.schema_arrow, image_column, label_column)
    except BadInputError as error:
        yield failed_shard(error)
        return
    metadata = parquet.metadata
    max_bytes = limits.max_expanded_bytes(file_size(file))
    first_row = num_claimed = 0
    for group in range(metadata.num_row_groups if stop is None else min(stop, metadata.num_row_groups)):
        row_group = metadata.row_group(group)
        rows = range(first_row, first_row + max(0, row_group.num_rows))
        claimed = max(0, row_group.total_byte_size)
        num_claimed += claimed
        if group >= start:
            # All groups together may yield three times max_bytes, and no group's share depends on another's content.
            budget = -1 if num_claimed > max_bytes else max_bytes // metadata.num_row_groups + 2 * claimed
            yield from _group_members(_batches(parquet, watched, columns, group), columns, group, rows, budget, limits)
        first_row = rows.stop


def split_parquet(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Ranges of row groups that take about `target_bytes` in the file; reads the footer only."""
    try:
        metadata = _open(_WatchedFile(file)).metadata
    except BadInputError:
        return [ShardRange(0, 0, file_size(file))]  # its reader reports the same damage
    ranges = []
    start = num_bytes = 0
    for group in range(metadata.num_row_groups):
        if num_bytes >= target_bytes:
            ranges.append(ShardRange(start, group, num_bytes))
            start, num_bytes = group, 0
        num_bytes += max(0, metadata.row_group(group).total_byte_size)
    return [*ranges, ShardRange(start, metadata.num_row_groups, num_bytes)]


@contextmanager
def _reading(watched: _WatchedFile) -> Iterator[None]:
    """Turns what Arrow raises for damaged data into BadInputError, and lets errors of the file itself pass."""
    try:
        yield
    except _ARROW_ERRORS as error:
        if watched.error is not None:
            raise watched.error from error
        message = str(error).split("\n", 1)[0][:300]
        raise BadInputError("read_error", f"damaged or not a Parquet file: {message}") from error


def _open(watched: _WatchedFile) -> pq.ParquetFile:
    """The file, read through a buffer where its row groups are too large to be held.

    The buffer is filled with zeros up to whatever size a damaged page claims (2 GiB, 5 s), so small files do without.
    """
    with _reading(watched):
        if watched.seek(0, os.SEEK_END) == 0:
            raise BadInputError("empty", "the file has no bytes")
        parquet = _open_buffered(watched, 0, None)
        metadata = parquet.metadata
        group_bytes = (metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        if max(group_bytes, default=0) <= _MAX_UNBUFFERED_BYTES:
            return parquet
        return _open_buffered(watched, _BUFFER_BYTES, metadata)


def _open_buffered(watched: _WatchedFile, buffer_bytes: int, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
    return pq.ParquetFile(
        watched,
        metadata=metadata,
        buffer_size=buffer_bytes,
        pre_buffer=False,
        thrift_string_size_limit=_MAX_FOOTER_STRING_BYTES,
        thrift_container_size_limit=_MAX_FOOTER_ITEMS,
        page_checksum_verification=True,
    )


def _group_members(
    batches: Iterator[pa.RecordBatch],
    columns: ParquetColumns,
    group: int,
    rows: range,
    budget: int,
    limits: ReadLimits,
) -> Iterator[Member]:
    """The rows of one row group as long as they take no more than `budget` bytes."""
    row = rows.start
    try:
        if budget < 0:
            raise BadInputError("read_error", "the row groups so far unpack to too many bytes: a bomb")
        for batch in batches:
            for index in range(batch.num_rows):
                member = _member(batch, index, row, columns, limits)
                budget -= max(_ROW_COST_BYTES, len(member.data or b""))
                if budget < 0:
                    raise BadInputError("read_error", "the row group unpacks to too many bytes: a bomb")
                if row == rows.stop:
                    raise _row_count_error(rows)
                yield member
                row += 1
        if row != rows.stop:
            raise _row_count_error(rows)
    except BadInputError as error:
        yield failed_member(f"row_group_{group}", error.reason, error.message)


def _row_count_error(rows: range) -> BadInputError:
    return BadInputError("read_error", f"damaged: not the {len(rows)} rows that the Parquet footer says")


def _batches(
    parquet: pq.ParquetFile, watched: _WatchedFile, columns: ParquetColumns, group: int
) -> Iterator[pa.RecordBatch]:
    """One row at a time: each may repeat a large value of a dictionary page, and Arrow takes 6 us a row."""
    names = [name for name in (columns.image, columns.name, columns.label) if name is not None]
    with _reading(watched):
        batches = parquet.iter_batches(batch_size=1, row_groups=[group], columns=names, use_threads=False)
    while True:
        with _reading(watched):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _member(batch: pa.RecordBatch, index: int, row: int, columns: ParquetColumns, limits: ReadLimits) -> Member:
    image = batch.column(columns.image)[index]
    path = None if columns.name is None else batch.column(columns.name)[index]
    if isinstance(image, pa.StructScalar):
        if path is None and "path" in image:
            path = image["path"]
        image = image["bytes"]
    name = f"{row:08d}" + (f"/{text}" if (text := _value(path)) else "")
    label = None if columns.label is None else _label(_value(batch.column(columns.label)[index]), columns.class_names)
    if image is None or not image.is_valid:
        return failed_member(name, "read_error", "the image column holds null", label=label)
    buffer = image.as_buffer()
    if failure := check_member_size(buffer.size, limits):
        return Member(name, None, label, failure)
    return member_of(name, buffer.to_pybytes(), label=label)


def _value(scalar: pa.Scalar | None) -> int | str | None:
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if scalar is None or not scalar.is_valid:
        return None
    if is_text(scalar.type):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    return scalar.as_py()


def _label(value: int | str | None, class_names: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    if class_names and isinstance(value, int):
        return class_names[value] if 0 <= value < len(class_names) else None  # -1 is "no label" there
    return str(value)
