"""Output folders with made tables and crops, for tests and benchmarks of what reads them; nothing is detected."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
from PIL import Image

from facemill.pipeline.config import Config, load_config
from facemill.pipeline.manifest import make_manifest
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.crops import open_crop_writer
from facemill.transforms.ops.layout import crop_key, faces_name, images_name, marker_name, template_folders
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_writer import TableWriter
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA

_GROUP_ROWS = 4096


@dataclass(frozen=True)
class MadeFace:
    """One image with one face; `columns` are those that matter, all others get some value.

    `others` are the crops in templates after the first, by their names.
    """

    image_id: str
    label: str | None
    crop: bytes
    kept: bool = True
    columns: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, bytes] = field(default_factory=dict)


def write_output(folder: Folder, units: Mapping[str, Iterable[MadeFace]], *settings: str) -> None:
    """An output folder as `facemill run` leaves it."""
    config = load_config(None, ["detect.accelerator=cpu", *settings])
    for unit, faces in units.items():
        _write_unit(folder, unit, faces, config)
    make_manifest(config, {}, runs_here=False).write(folder)


def _write_unit(folder: Folder, unit: str, faces: Iterable[MadeFace], config: Config) -> None:
    templates = config.align.templates
    writers = [open_crop_writer(folder, unit, config.write.crops, place) for place in template_folders(templates)]
    face_table, image_table = (
        TableWriter(folder, name, schema, group_rows=_GROUP_ROWS, compression="zstd")
        for name, schema in ((faces_name(unit), FACES_SCHEMA), (images_name(unit), IMAGES_SCHEMA))
    )
    summary = UnitSummary(unit, config.fingerprint)
    for index, face in enumerate(faces):
        number = crc32(face.image_id.encode()) % 1000  # by the image, wherever it stands
        has_crop = face.kept and config.write.crops != "none"
        name = crop_key(unit, index, 0) + config.write.extension if has_crop else None
        if name is not None:
            for writer, crop in zip(
                writers, (face.crop, *(face.others[other] for other in templates[1:])), strict=True
            ):
                writer.add(name, crop, face.label)
        shared = {"image_id": face.image_id, "unit": unit, "label": face.label}
        row = {"face_id": f"{face.image_id}#0", "kept": face.kept, "crop": name, **shared, **face.columns}
        face_table.add([_defaults(FACES_SCHEMA, number) | row])
        status = "ok" if face.kept else "rejected"
        counts = {"status": status, "num_faces": 1, "num_kept": int(face.kept)}
        image_table.add([_defaults(IMAGES_SCHEMA, number) | shared | counts])
        summary.num_images += 1
        summary.num_faces += 1
        summary.num_kept += face.kept
        summary.num_crops += has_crop
        summary.statuses[status] = summary.statuses.get(status, 0) + 1
    for part in (*writers, face_table, image_table):
        part.commit()
    folder.write_bytes(marker_name(unit), summary.to_json())


def _defaults(schema: pa.Schema, number: int) -> dict[str, Any]:
    return {column.name: _default(column.type, number) for column in schema}


def _default(kind: pa.DataType, number: int) -> Any:
    if pa.types.is_list(kind):
        return [0.5 * number + point for point in range(10)]
    if pa.types.is_floating(kind):
        return number % 64 / 64
    if pa.types.is_integer(kind):
        return number % 100
    return None


@lru_cache(maxsize=4096)
def made_crop(number: int, *, size_px: int = 24, detail_px: int = 3, image_format: str = "JPEG") -> bytes:
    """A small picture; each number gives another file, and more detail a larger one."""
    noise = np.random.default_rng(number).integers(0, 256, (detail_px, detail_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((size_px, size_px), Image.Resampling.BICUBIC).save(buffer, image_format)
    return buffer.getvalue()
