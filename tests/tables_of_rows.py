"""Output folders made of rows, without a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.pipeline.config import load_config
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.plan import append_units, read_plan
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import faces_name, images_name, marker_name
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA
from facemill.transforms.ops.units import Unit

Row = dict[str, Any]
POINTS = [30.0, 40.0, 70.0, 40.0, 50.0, 60.0, 35.0, 80.0, 65.0, 80.0]


def image_row(image_id: str, **values: Any) -> Row:
    """The row of an input in which nothing was found, unless told otherwise."""
    row = dict.fromkeys(IMAGES_SCHEMA.names)
    source = values.get("source", image_id)
    row |= {"image_id": image_id, "unit": "unit-000000", "source": source, "member": "", "status": "no_face"}
    row |= {"format": "JPEG", "width": 144, "height": 144, "num_faces": 0, "num_kept": 0}
    return row | values


def face_row(image_id: str, index: int = 0, **values: Any) -> Row:
    """The row of a kept face, or of a rejected one where a reason is given."""
    row = dict.fromkeys(FACES_SCHEMA.names)
    row |= {"face_id": f"{image_id}#{index}", "image_id": image_id, "unit": "unit-000000", "face_index": index}
    row |= {"x1": 20.0, "y1": 20.0, "x2": 80.0, "y2": 100.0, "score": 0.99, "landmarks": POINTS, "yaw_deg": 0.0}
    row |= {"pitch_deg": 0.0, "roll_deg": 0.0, "interocular_px": 40.0, "kept": values.get("reason") is None}
    return row | values


def write_output(
    folder: Path,
    images: Sequence[Row],
    faces: Sequence[Row] = (),
    *,
    inputs: Mapping[str, str] | None = None,
    units: Sequence[Unit] = (),
    settings: Sequence[str] = (),
    seconds: float = 1.0,
) -> Folder:
    """Tables, markers, manifest and plan; what the rows say of an image's faces is counted from them."""
    output = Folder(str(folder))
    config = load_config(None, settings)
    for row in images:
        own = [face for face in faces if face["image_id"] == row["image_id"]]
        if own:
            kept = sum(face["kept"] for face in own)
            row |= {"num_faces": len(own), "num_kept": kept, "status": "ok" if kept else "rejected"}
    for unit in sorted({row["unit"] for row in images}):
        of_images = [row for row in images if row["unit"] == unit]
        of_faces = [row for row in faces if row["unit"] == unit]
        _write(folder / images_name(unit), of_images, IMAGES_SCHEMA)
        _write(folder / faces_name(unit), of_faces, FACES_SCHEMA)
        summary = UnitSummary(
            unit,
            config.fingerprint,
            num_images=len(of_images),
            num_faces=len(of_faces),
            num_kept=sum(row["kept"] for row in of_faces),
            num_bytes=1000 * len(of_images),
            seconds=seconds,
            statuses=dict(Counter(row["status"] for row in of_images)),
            failure_reasons=dict(Counter(row["reason"] for row in of_images if row["status"] == "failed")),
            rejection_reasons=dict(Counter(row["reason"] for row in of_faces if not row["kept"])),
        )
        output.write_bytes(marker_name(unit), summary.to_json())
    append_units(output, read_plan(output), units)
    make_manifest(config, dict(inputs or {})).write(output)
    return output


def _write(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
