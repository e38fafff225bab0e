"""The tables of `facemill duplicates`, for exports that take one of a group alone."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from facemill.models.errors import ConfigError
from facemill.pipeline.export.options import Duplicates
from facemill.pipeline.outputs import Output
from facemill.transforms.ops.table_reader import open_table

_NAMES = {"exact": "duplicates/images.parquet", "near": "duplicates/faces.parquet"}
KEYS = {"exact": "image_id", "near": "face_id"}  # exact duplicates are images, near ones are faces


def check_duplicates(output: Output, kind: Duplicates) -> None:
    """Make sure that there is a table.

    Raises:
        ConfigError: There is none.
    """
    uri = output.folder.uri
    if not output.folder.exists(_NAMES[kind]):
        raise ConfigError(f"{uri} has no table of duplicates; make it with: facemill duplicates {uri}")


def read_duplicates(output: Output, kind: Duplicates) -> Iterator[pa.RecordBatch]:
    """The members of the groups: `key` and `group`."""
    with open_table(output.folder, _NAMES[kind]) as table:
        for batch in table.iter_batches(columns=[KEYS[kind], "group"], use_threads=False):
            yield batch.rename_columns(["key", "group"])
