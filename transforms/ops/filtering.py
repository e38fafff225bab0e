"""Judging a unit anew by its tables alone: other verdicts on the same faces, streamed by row groups."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.transforms.ops.alignment import NO_CROP
from facemill.transforms.ops.committing import UnitSummary, digest_marker, read_marker
from facemill.transforms.ops.cutting import place_face
from facemill.transforms.ops.layout import faces_name, images_name, marker_name
from facemill.transforms.ops.records import Faces
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_reader import check_rows, open_table, telling_damage
from facemill.transforms.ops.table_writer import TableWriter
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA, faces_of_table
from facemill.transforms.ops.templates import Template
from facemill.transforms.ops.verdict import JudgeOptions, judge_faces


def filter_unit(
    tables: Folder,
    output: Folder,
    unit: str,
    *,
    options: JudgeOptions,
    templates: Sequence[Template],
    fingerprint: str,
) -> UnitSummary:
    """Write the tables of a unit with new verdicts, and its commit marker last.

    Args:
        tables: The output folder that holds the unit.
        output: Another one.
        unit: The name of a committed unit.
        options: The limits.
        templates: In which a kept face must have a crop.
        fingerprint: Of the configuration that has these limits.

    Raises:
        OutputError: The tables are missing or damaged, or the output cannot be written.
    """
    started_at = time.time()
    try:
        marker = read_marker(tables, unit)  # before the tables: if they are written anew meanwhile, it is another one
        summary = UnitSummary.from_json(marker, tables.shown(marker_name(unit)))
        with ExitStack() as stack:
            stack.enter_context(telling_damage(f"{images_name(unit)} or {faces_name(unit)} in {tables.uri}"))
            images = stack.enter_context(open_table(tables, images_name(unit), IMAGES_SCHEMA))
            faces = stack.enter_context(open_table(tables, faces_name(unit), FACES_SCHEMA))
            new_faces = _like(faces, FACES_SCHEMA, output, faces_name(unit), fingerprint)
            stack.callback(new_faces.discard)
            new_images = _like(images, IMAGES_SCHEMA, output, images_name(unit), fingerprint)
            stack.callback(new_images.discard)
            num_kept, reasons, num_crops = _judge(images, faces, new_faces, options, templates)
            statuses = _count(images, new_images, num_kept)
            new_faces.commit()
            new_images.commit()
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(f"{unit} of {tables.uri} cannot be judged anew in {output.uri}: {why}") from error
    summary = replace(
        summary,
        fingerprint=fingerprint,
        num_kept=int(num_kept.sum()),
        num_crops=num_crops,
        seconds=round(time.time() - started_at, 3),
        statuses=statuses,
        rejection_reasons=reasons,
        source_digest=digest_marker(marker),
        crops_digest=summary.crops_digest or digest_marker(marker),
    )
    output.write_bytes(marker_name(unit), summary.to_json())
    return summary


def _like(table: pq.ParquetFile, schema: pa.Schema, output: Folder, name: str, fingerprint: str) -> TableWriter:
    """A writer for a table of the same making, but for the configuration."""
    try:
        made_by = json.loads((table.schema_arrow.metadata or {})[b"facemill"])
    except (KeyError, ValueError) as error:
        raise OutputError(f"the table {name} is damaged: its metadata do not say what made it") from error
    metadata = {"facemill": json.dumps({**made_by, "fingerprint": fingerprint})}
    return TableWriter(output, name, schema, group_rows=0, compression="zstd", metadata=metadata)


def _judge(
    images: pq.ParquetFile,
    faces: pq.ParquetFile,
    new_faces: TableWriter,
    options: JudgeOptions,
    templates: Sequence[Template],
) -> tuple[np.ndarray, dict[str, int], int]:
    """Write the judged faces; returns how many are kept of each image, the count of each reason, and of the crops."""
    of_images = images.read(["image_id", "width", "height", "num_faces"])
    check_rows(of_images)
    sizes_wh = np.column_stack([of_images["width"].to_numpy(), of_images["height"].to_numpy()])
    num_kept = np.zeros(len(sizes_wh), np.int32)
    reasons: Counter[str] = Counter()
    num_crops = 0
    for rows, image_index in _groups_of_faces(faces, of_images["num_faces"].to_numpy()):
        check_rows(rows)
        if not pc.all(pc.equal(rows["image_id"], of_images["image_id"].take(image_index))).as_py():
            raise pa.ArrowInvalid("the rows of the two are in different orders")
        judged = judge_rows(rows, sizes_wh[image_index], image_index, options, templates)
        new_faces.add_group(judged)
        num_kept += np.bincount(image_index[judged["kept"].to_numpy()], minlength=len(num_kept)).astype(np.int32)
        reasons.update(judged["reason"].drop_null().to_pylist())
        num_crops += len(judged) - judged["crop"].null_count
    return num_kept, dict(reasons), num_crops


def _groups_of_faces(faces: pq.ParquetFile, num_faces: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The row groups of faces, and for each row the position of its image: both tables are in the inputs' order.

    Raises:
        ArrowInvalid: The two tables do not fit, or an image is spread over groups, which the writer never does.
    """
    image_index = np.repeat(np.arange(len(num_faces)), num_faces)
    start = 0
    for group in range(faces.num_row_groups):
        stop = start + faces.metadata.row_group(group).num_rows
        if stop > len(image_index) or (stop < len(image_index) and image_index[stop - 1] == image_index[stop]):
            break
        yield faces.read_row_group(group), image_index[start:stop]
        start = stop
    if start != len(image_index) or start != faces.metadata.num_rows:
        raise pa.ArrowInvalid(f"{faces.metadata.num_rows} faces, {len(image_index)} in the images")


def judge_rows(
    rows: pa.Table, image_wh: np.ndarray, image_index: np.ndarray, options: JudgeOptions, templates: Sequence[Template]
) -> pa.Table:
    """Rows of `faces` with new verdicts; a kept face keeps the name of its crop, if it has one.

    Args:
        rows: All faces of some images.
        image_wh: (N, 2) px, of each face's image.
        image_index: (N,), the same for the faces of one image.
        options: The limits.
        templates: In which a kept face must have a crop.
    """
    faces = faces_of_table(rows)
    reasons = judge_faces(faces, image_wh=image_wh, image_index=image_index, options=options)
    reasons = _reject_without_crop(reasons, faces, templates, image_wh)
    kept = pa.array([not reason for reason in reasons], pa.bool_())
    columns = {
        "kept": kept,
        "reason": pa.array([reason or None for reason in reasons], pa.string()),
        "crop": pc.if_else(kept, rows["crop"], pa.scalar(None, pa.string())),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _reject_without_crop(
    reasons: tuple[str, ...], faces: Faces, templates: Sequence[Template], image_wh: np.ndarray
) -> tuple[str, ...]:
    """As the alignment does; a face that was kept before had a crop."""

    def has_crop(face: int) -> bool:
        size_wh = (int(image_wh[face, 0]), int(image_wh[face, 1]))
        return place_face(faces.boxes[face], faces.landmarks[face], templates, size_wh) is not None

    return tuple(
        reason if reason or not faces.reasons[face] or has_crop(face) else NO_CROP
        for face, reason in enumerate(reasons)
    )


def _count(images: pq.ParquetFile, new_images: TableWriter, num_kept: np.ndarray) -> dict[str, int]:
    """Write the rows of the images; returns the count of each status."""
    statuses: Counter[str] = Counter()
    start = 0
    for group in range(images.num_row_groups):
        rows = images.read_row_group(group)
        check_rows(rows)
        counted = count_kept(rows, num_kept[start : start + len(rows)])
        new_images.add_group(counted)
        statuses.update(counted["status"].to_pylist())
        start += len(rows)
    return dict(statuses)


def count_kept(rows: pa.Table, num_kept: np.ndarray) -> pa.Table:
    """Rows of `images` with (N,) new numbers of kept faces."""
    has_faces = pc.greater(rows["num_faces"], 0)
    status = pc.if_else(has_faces, pc.if_else(pa.array(num_kept > 0), "ok", "rejected"), rows["status"])
    for name, column in (("status", status), ("num_kept", pa.array(num_kept, pa.int32()))):
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows
