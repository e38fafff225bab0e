"""Parquet files that grow row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.transforms.ops.storage import AtomicFile, Folder


class RowGroups:
    """Gathers the rows of a Parquet file into row groups, so that memory does not grow with the table.

    Args:
        file: The file, left open.
        schema: Of the rows.
        group_rows: A group is written when it has so many rows.
        compression: As Parquet calls it.
        group_bytes: A group is also written when its rows have added up to so many bytes.
        with_dictionary: The columns that are stored with one; by default all.
    """

    def __init__(
        self,
        file: IO[bytes],
        schema: pa.Schema,
        *,
        group_rows: int,
        compression: str,
        group_bytes: int | None = None,
        with_dictionary: Sequence[str] | None = None,
    ) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._group_bytes = group_bytes
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0
        dictionary = True if with_dictionary is None else list(with_dictionary)
        self._writer = pq.ParquetWriter(file, schema, compression=compression, use_dictionary=dictionary)

    def add(self, rows: Iterable[dict[str, Any]], *, num_bytes: int = 0) -> None:
        """Add rows, each with the columns of the schema, that take about so many bytes."""
        self._rows.extend(rows)
        self._num_bytes += num_bytes
        is_large = self._group_bytes is not None and self._num_bytes >= self._group_bytes
        if len(self._rows) >= self._group_rows or is_large:
            self._flush()

    def add_group(self, rows: pa.Table) -> None:
        """Add rows that have the columns of the schema as a row group of their own."""
        self._writer.write_table(rows)

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._rows:
            self._flush()
        self._writer.close()

    def give_up(self) -> None:
        """Write no more; else the writer complains of the closed file when it is collected."""
        with contextlib.suppress(OSError):
            self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        self._num_bytes = 0


class TableWriter(RowGroups):
    """A Parquet file of an output, which appears on `commit`."""

    def __init__(
        self,
        output: Folder,
        name: str,
        schema: pa.Schema,
        *,
        group_rows: int,
        compression: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._file = AtomicFile(output, name)
        described = schema.with_metadata(dict(metadata or {}))
        super().__init__(self._file.file, described, group_rows=group_rows, compression=compression)

    def commit(self) -> None:
        """Make the file appear."""
        self.close()
        self._file.commit()

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        self.give_up()
        self._file.discard()
