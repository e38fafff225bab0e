"""Reading Parquet shards row by row: image bytes in a binary column, or in the `image` struct of Hugging Face."""

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

_BATCH_BYTES = 8 * 2**20
_MAX_BATCH_ROWS = 64
_BUFFER_BYTES = 2**20  # without a buffer Arrow reads whole column chunks
_MAX_FOOTER_ITEMS = 2**22
_MAX_FOOTER_STRING_BYTES = 64 * 2**20
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


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
        columns = find_columns(parquet.schema_arrow, image_column, label_column)
    except BadInputError as error:
        yield failed_shard(error)
        return
    first_row = 0
    for group in range(parquet.metadata.num_row_groups if stop is None else min(stop, parquet.metadata.num_row_groups)):
        num_rows = max(0, parquet.metadata.row_group(group).num_rows)
        if group >= start:
            try:
                yield from _group_members(
                    parquet, watched, columns, group, range(first_row, first_row + num_rows), limits
                )
            except BadInputError as error:
                yield failed_member(f"row_group_{group}", error.reason, error.message)
        first_row += num_rows


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
        num_bytes += _stored_bytes(metadata.row_group(group))
    return [*ranges, ShardRange(start, metadata.num_row_groups, num_bytes)]


def _stored_bytes(row_group: pq.RowGroupMetaData) -> int:
    return sum(row_group.column(index).total_compressed_size for index in range(row_group.num_columns))


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
    with _reading(watched):
        if watched.seek(0, os.SEEK_END) == 0:
            raise BadInputError("empty", "the file has no bytes")
        return pq.ParquetFile(
            watched,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=_MAX_FOOTER_STRING_BYTES,
            thrift_container_size_limit=_MAX_FOOTER_ITEMS,
            page_checksum_verification=True,
        )


def _image_chunks(parquet: pq.ParquetFile, group: int, column: str) -> list[pq.ColumnChunkMetaData]:
    row_group = parquet.metadata.row_group(group)
    chunks = [row_group.column(index) for index in range(row_group.num_columns)]
    return [chunk for chunk in chunks if chunk.path_in_schema in (column, f"{column}.bytes")]


def _group_members(
    parquet: pq.ParquetFile,
    watched: _WatchedFile,
    columns: ParquetColumns,
    group: int,
    rows: range,
    limits: ReadLimits,
) -> Iterator[Member]:
    error = BadInputError("read_error", f"damaged: not the {len(rows)} rows that the Parquet footer says")
    row = rows.start
    for batch in _batches(parquet, watched, columns, group, limits):
        if row + batch.num_rows > rows.stop:
            raise error
        for index in range(batch.num_rows):
            yield _member(batch, index, row, columns, limits)
            row += 1
    if row != rows.stop:
        raise error


def _batches(
    parquet: pq.ParquetFile, watched: _WatchedFile, columns: ParquetColumns, group: int, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    names = [name for name in (columns.image, columns.name, columns.label) if name is not None]
    with _reading(watched):
        batches = parquet.iter_batches(
            batch_size=_batch_rows(_image_chunks(parquet, group, columns.image), limits),
            row_groups=[group],
            columns=names,
            use_threads=False,
        )
    while True:
        with _reading(watched):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _batch_rows(chunks: list[pq.ColumnChunkMetaData], limits: ReadLimits) -> int:
    """Rows that unpack to about 8 MiB; any row may repeat the largest value of a dictionary page."""
    max_rows = _MAX_BATCH_ROWS
    for chunk in chunks:
        limit = limits.max_expanded_bytes(chunk.total_compressed_size)
        if chunk.total_uncompressed_size > limit:
            raise BadInputError("read_error", f"a row group unpacks to more than {limit} bytes: a decompression bomb")
        row_bytes = chunk.total_uncompressed_size // max(1, chunk.num_values)
        if chunk.has_dictionary_page:
            expansion = chunk.total_uncompressed_size // max(1, chunk.total_compressed_size) + 1
            row_bytes = max(row_bytes, expansion * (chunk.data_page_offset - chunk.dictionary_page_offset))
        max_rows = min(max_rows, _BATCH_BYTES // max(1, row_bytes))
    return max(1, max_rows)


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
