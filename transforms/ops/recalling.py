"""Recalling a unit: its inputs and faces as earlier tables hold them, and the files of those that have a kept face."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.transforms.ops.layout import faces_name, images_name
from facemill.transforms.ops.reading import DEADLY, InputRoots, ReadOptions, read_unit
from facemill.transforms.ops.records import Failure, ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_reader import open_table
from facemill.transforms.ops.tables import record_of_row
from facemill.transforms.ops.units import Unit

Row = dict[str, Any]
_BATCH_ROWS = 256
_CHANGED = Failure("read_error", "the archive has changed since its faces were found: another member is in this place")


def recall_unit(
    unit: Unit, tables: Folder, roots: InputRoots, options: ReadOptions, *, skip: Collection[int] = ()
) -> Iterator[ImageRecord]:
    """The inputs of a unit in their order, with their faces; `data` is read only where a face is kept.

    `sha256` is that of the tables, so that whoever decodes `data` can tell whether the file is still the same.

    Args:
        unit: What to read, as it was planned when the tables were made.
        tables: The output folder that holds them.
        roots: The input roots by name.
        options: Limits and columns, as they were then.
        skip: Positions whose input gets a failed row unseen, because it killed the process before.

    Raises:
        OSError: A store could not be reached.
        OutputError: The tables are missing or damaged.
    """
    with ExitStack() as stack:
        images = stack.enter_context(open_table(tables, images_name(unit.name)))
        faces = stack.enter_context(open_table(tables, faces_name(unit.name)))
        try:
            num_kept = images.read(["num_kept"])["num_kept"].to_numpy()
            files = _read_files(unit, sorted({*np.flatnonzero(num_kept).tolist()} - {*skip}), roots, options)
            faces_of = itertools.groupby(_rows(faces), key=itemgetter("image_id"))
            for index, row in enumerate(_rows(images)):
                rows = list(next(faces_of)[1]) if row["num_faces"] else []
                record = replace(record_of_row(row, rows), index=index, num_bytes=_size(unit, index))
                if row["num_kept"]:
                    record = _with_file(record, DEADLY if index in skip else next(files, None))
                yield record
        except (pa.ArrowException, StopIteration) as error:
            raise OutputError(f"the tables of {unit.name} in {tables.uri} are damaged: {error}") from error


def _rows(table: pq.ParquetFile) -> Iterator[Row]:
    for batch in table.iter_batches(_BATCH_ROWS):
        yield from batch.to_pylist()


def _read_files(unit: Unit, positions: list[int], roots: InputRoots, options: ReadOptions) -> Iterator[ImageRecord]:
    """The inputs at these positions of the unit, as far as they are still there; no other loose file is opened."""
    if unit.kind == "files":
        sources, sizes = [unit.sources[i] for i in positions], [unit.sizes[i] for i in positions]
        yield from read_unit(replace(unit, sources=tuple(sources), sizes=tuple(sizes)), roots, options)
    elif positions:
        wanted = frozenset(positions)
        through = itertools.islice(read_unit(unit, roots, options), positions[-1] + 1)
        yield from (record for record in through if record.index in wanted)


def _size(unit: Unit, index: int) -> int:
    return unit.sizes[index] if unit.kind == "files" else 0


def _with_file(record: ImageRecord, file: ImageRecord | Failure | None) -> ImageRecord:
    """The record with its encoded file, or with the reason why its crops cannot be cut any more."""
    if isinstance(file, ImageRecord) and file.image_id == record.image_id:
        if file.failure is None:
            return replace(record, data=file.data, num_bytes=file.num_bytes)
        failure = file.failure
    else:
        failure = file if isinstance(file, Failure) else _CHANGED
    return replace(record, failure=failure, faces=None)
