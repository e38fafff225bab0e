"""A Parquet file that grows row by row and appears on commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.transforms.ops.storage import AtomicFile, Folder


class TableWriter:
    """Gathers rows into row groups of `group_rows`, so that memory does not grow with the table."""

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
        self._schema = schema
        self._group_rows = group_rows
        self._rows: list[dict[str, Any]] = []
        self._file = AtomicFile(output, name)
        self._writer = pq.ParquetWriter(
            self._file.file, schema.with_metadata(dict(metadata or {})), compression=compression
        )

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows, each with the columns of the schema."""
        self._rows.extend(rows)
        if len(self._rows) >= self._group_rows:
            self._flush()

    def add_group(self, rows: pa.Table) -> None:
        """Add rows that have the columns of the schema as a row group of their own."""
        self._writer.write_table(rows)

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def commit(self) -> None:
        """Make the file appear."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._file.commit()

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        with contextlib.suppress(OSError):
            self._writer.close()  # else it complains of the closed file when it is collected
        self._file.discard()
