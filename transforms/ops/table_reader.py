"""Reading one Parquet table of an output folder, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.transforms.ops.storage import Folder

_NEVER_NULL = frozenset({"status", "num_faces", "num_kept", "kept", "landmarks"})
NUM_COORDINATES = 10  # of a face's landmarks


@contextmanager
def open_table(output: Folder, name: str, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    """The table `name` of a committed unit.

    Raises:
        OutputError: It is missing, no Parquet file, or another table than one with at least the columns of `schema`.
    """
    try:
        with output.fs.open(output.join(name), "rb") as file:
            with telling_damage(output.shown(name)):
                table = pq.ParquetFile(file)
                _check_columns(table.schema_arrow, schema)
            yield table
    except FileNotFoundError as error:
        raise OutputError(f"{output.shown(name)} is missing, though its unit was committed") from error


@contextmanager
def telling_damage(what: str) -> Iterator[None]:
    """Raise OutputError in place of what Arrow says of a damaged table, some of it by an OSError without a number."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise OutputError(f"{what} is damaged: {' '.join(str(error).split())}") from error


def check_rows(rows: pa.Table | pa.RecordBatch) -> None:
    """Raise ArrowInvalid where a value that every row has is missing, or the landmarks are not five points."""
    for name in rows.schema.names:
        if name in _NEVER_NULL and rows[name].null_count:
            raise pa.ArrowInvalid(f"the column {name} lacks the value of {rows[name].null_count} rows")
    if "landmarks" in rows.schema.names:
        _check_landmarks(rows["landmarks"])


def _check_landmarks(column: pa.Array | pa.ChunkedArray) -> None:
    if pc.any(pc.not_equal(pc.list_value_length(column), NUM_COORDINATES)).as_py():
        raise pa.ArrowInvalid(f"the column landmarks holds others than {NUM_COORDINATES} numbers")
    if pc.list_flatten(column).null_count:
        raise pa.ArrowInvalid("the column landmarks lacks numbers")


def _check_columns(found: pa.Schema, wanted: pa.Schema) -> None:
    """Raise ArrowInvalid where a column is missing, or holds something else."""
    for field in wanted:
        kinds = [found.field(index).type for index in found.get_all_field_indices(field.name)]
        if kinds != [field.type]:
            there = f"is {kinds[0]}, not {field.type}" if len(kinds) == 1 else f"is there {len(kinds)} times"
            raise pa.ArrowInvalid(f"the column {field.name} {there}")
