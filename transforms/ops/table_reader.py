"""Reading one Parquet table of an output folder, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.transforms.ops.storage import Folder


@contextmanager
def open_table(output: Folder, name: str) -> Iterator[pq.ParquetFile]:
    """The table `name` of a committed unit.

    Raises:
        OutputError: It is missing, or no Parquet file.
    """
    try:
        with output.fs.open(output.join(name), "rb") as file:
            try:
                table = pq.ParquetFile(file)
            except pa.ArrowException as error:
                raise OutputError(f"{output.join(name)} is damaged: {error}") from error
            yield table
    except FileNotFoundError as error:
        raise OutputError(f"{output.join(name)} is missing, though its unit was committed") from error
