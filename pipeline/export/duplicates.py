"""The tables of `facemill duplicates`, for exports that take one of a group alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from facemill.pipeline.duplicates import DUPLICATES_SCHEMAS, TableName, check_duplicates
from facemill.pipeline.export.options import Duplicates
from facemill.pipeline.outputs import Output
from facemill.transforms.ops.layout import duplicates_name
from facemill.transforms.ops.table_reader import open_table

_TABLES: Mapping[Duplicates, TableName] = {"exact": "images", "near": "faces"}
KEYS: Mapping[Duplicates, str] = {"exact": "image_id", "near": "face_id"}


def check_kind(output: Output, kind: Duplicates) -> None:
    """Make sure that there is a table of that kind, made from the output as it is now.

    Raises:
        ConfigError: There is none.
    """
    check_duplicates(output, _TABLES[kind])


def read_duplicates(output: Output, kind: Duplicates) -> Iterator[pa.RecordBatch]:
    """The members of the groups: `key`, `group`, and `place`, from 1, which is the one to keep."""
    columns = [KEYS[kind], "group", "place"]
    schema = pa.schema([DUPLICATES_SCHEMAS[_TABLES[kind]].field(name) for name in columns])
    with open_table(output.folder, duplicates_name(_TABLES[kind]), schema) as table:
        for batch in table.iter_batches(columns=columns, use_threads=False):
            yield batch.select(columns).rename_columns(["key", *columns[1:]])
