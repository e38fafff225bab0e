"""Recalling a unit: its inputs and faces as earlier tables hold them, and the files of those that have a kept face."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.transforms.ops.layout import faces_name, images_name
from facemill.transforms.ops.reading import DEADLY, InputRoots, ReadOptions, printable, read_unit
from facemill.transforms.ops.records import Failure, ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_reader import check_rows, open_table, telling_damage
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA, record_of_row
from facemill.transforms.ops.units import Unit

Row = dict[str, Any]
_BATCH_ROWS = 256
_LEFT = Failure("internal_error", "the worker process died on a frame before this one, again and again")
_OTHER_PLACE = Failure(
    "read_error", "the archive has changed since its faces were found: another member is in this place"
)


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
        images = stack.enter_context(open_table(tables, images_name(unit.name), IMAGES_SCHEMA))
        faces = stack.enter_context(open_table(tables, faces_name(unit.name), FACES_SCHEMA))
        with telling_damage(tables.shown(images_name(unit.name))):
            columns = images.read(["num_kept", "source"])
            check_rows(columns)
        files: Iterator[ImageRecord | Failure]
        wanted = sorted({*np.flatnonzero(columns["num_kept"].to_numpy()).tolist()} - {*skip})
        if unit.kind == "videos":
            files = _read_frames(unit, wanted, columns["source"].to_pylist(), roots, options, frozenset(skip))
        else:
            files = _read_files(unit, wanted, roots, options)
        for index, (row, rows) in enumerate(_images_with_faces(unit, tables, images, faces)):
            record = replace(record_of_row(row, rows), index=index, num_bytes=_size(unit, index))
            if row["num_kept"]:
                record = _with_file(record, DEADLY if index in skip else next(files, None))
            yield record


def _images_with_faces(
    unit: Unit, tables: Folder, images: pq.ParquetFile, faces: pq.ParquetFile
) -> Iterator[tuple[Row, list[Row]]]:
    """The rows of the images, each with those of its faces, which come in the same order."""
    by_image = itertools.groupby(_rows(faces, tables.shown(faces_name(unit.name))), key=itemgetter("image_id"))
    for row in _rows(images, tables.shown(images_name(unit.name))):
        image_id, found = next(by_image, ("", ())) if row["num_faces"] else (row["image_id"], ())
        rows = list(found)
        if (image_id, len(rows)) != (row["image_id"], row["num_faces"]):
            raise _do_not_fit(unit, tables)
        yield row, rows
    if next(by_image, None) is not None:
        raise _do_not_fit(unit, tables)


def _do_not_fit(unit: Unit, tables: Folder) -> OutputError:
    return OutputError(
        f"{tables.shown(faces_name(unit.name))} is damaged: its rows are not those that {images_name(unit.name)} counts"
    )


def _rows(table: pq.ParquetFile, shown: str) -> Iterator[Row]:
    with telling_damage(shown):
        for batch in table.iter_batches(_BATCH_ROWS):
            check_rows(batch)
            yield from batch.to_pylist()


def _read_files(unit: Unit, positions: list[int], roots: InputRoots, options: ReadOptions) -> Iterator[ImageRecord]:
    """The inputs at these positions of the unit, as far as they are still there; no other loose file is opened."""
    if unit.kind == "files":
        sources, sizes = [unit.sources[i] for i in positions], [unit.sizes[i] for i in positions]
        yield from read_unit(replace(unit, sources=tuple(sources), sizes=tuple(sizes)), roots, options)
    elif positions:
        wanted = frozenset(positions)
        records = read_unit(unit, roots, options, only=wanted if unit.kind == "urls" else None)
        yield from (record for record in itertools.islice(records, positions[-1] + 1) if record.index in wanted)


def _read_frames(
    unit: Unit,
    positions: list[int],
    sources: list[str],
    roots: InputRoots,
    options: ReadOptions,
    skip: frozenset[int],
) -> Iterator[ImageRecord | Failure]:
    """The frames at these positions, or why there are none; no video is decoded beyond the last of its own.

    Each video is read by itself: one that is left in its midst, now or when the tables were made, has fewer frames.
    """
    planned = {printable(video): (video, size) for video, size in zip(unit.sources, unit.sizes, strict=True)}
    wanted = frozenset(positions)
    for source, rows in itertools.groupby(range(len(sources)), key=sources.__getitem__):
        indices = list(rows)
        if source not in planned:
            raise OutputError(f"a table of {unit.name} is damaged: it names {source}, which is none of its videos")
        video, size = planned[source]
        part = replace(unit, sources=(video,), sizes=(size,))
        frames = read_unit(part, roots, options, skip=skip, first_index=indices[0])
        missing = _LEFT if not skip.isdisjoint(indices) else _OTHER_PLACE
        for position in indices:
            if position in wanted:
                yield next((frame for frame in frames if frame.index == position), missing)


def _size(unit: Unit, index: int) -> int:
    return unit.sizes[index] if unit.kind == "files" else 0


def _with_file(record: ImageRecord, file: ImageRecord | Failure | None) -> ImageRecord:
    """The record with its encoded file, or with the reason why its crops cannot be cut any more."""
    if isinstance(file, ImageRecord) and file.image_id == record.image_id:
        if file.failure is None:
            return replace(record, data=file.data, num_bytes=file.num_bytes)
        failure = file.failure
    else:
        failure = file if isinstance(file, Failure) else _OTHER_PLACE
    return replace(record, failure=failure, faces=None)
