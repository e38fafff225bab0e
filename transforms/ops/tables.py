"""The `images` and `faces` tables: their schemas, and their rows from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from facemill.transforms.ops.credentials import redact
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.records import Faces, Failure, ImageRecord

SCHEMA_VERSION = 2

IMAGES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("unit", pa.string()),
        ("source", pa.string()),
        ("member", pa.string()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("exif_orientation", pa.int8()),
        ("label", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("num_faces", pa.int32()),
        ("num_kept", pa.int32()),
    ]
)

FACES_SCHEMA = pa.schema(
    [
        ("face_id", pa.string()),
        ("image_id", pa.string()),
        ("unit", pa.string()),
        ("face_index", pa.int32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("score", pa.float32()),
        ("landmarks", pa.list_(pa.float32())),
        ("yaw_deg", pa.float32()),
        ("pitch_deg", pa.float32()),
        ("roll_deg", pa.float32()),
        ("interocular_px", pa.float32()),
        *((name, pa.float32()) for name in QUALITY_COLUMNS),
        ("phash", pa.string()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("crop", pa.string()),
        ("label", pa.string()),
    ]
)


def num_kept(record: ImageRecord) -> int:
    """How many faces of an image are kept."""
    return 0 if record.faces is None else record.faces.reasons.count("")


def image_status(record: ImageRecord) -> str:
    """`failed`, `no_face`, `rejected` (faces, none kept) or `ok`."""
    if record.failure is not None:
        return "failed"
    if record.faces is None or not len(record.faces):
        return "no_face"
    return "ok" if num_kept(record) else "rejected"


def image_row(record: ImageRecord, unit: str) -> dict[str, Any]:
    """The row of one input."""
    return {
        "image_id": record.image_id,
        "unit": unit,
        "source": record.source,
        "member": record.member,
        "sha256": record.sha256,
        "format": record.format,
        "width": record.width,
        "height": record.height,
        "exif_orientation": record.exif_orientation,
        "label": record.label,
        "status": image_status(record),
        "reason": record.failure.reason if record.failure else None,
        "message": redact(record.failure.message) if record.failure else None,
        "num_faces": 0 if record.faces is None else len(record.faces),
        "num_kept": num_kept(record),
    }


def record_of_row(row: Mapping[str, Any], faces: Sequence[Mapping[str, Any]]) -> ImageRecord:
    """The reverse of `image_row` and `face_rows`: a record that gives the same rows again."""
    return ImageRecord(
        index=0,
        image_id=row["image_id"],
        source=row["source"],
        member=row["member"],
        label=row["label"],
        sha256=row["sha256"],
        format=row["format"],
        width=row["width"],
        height=row["height"],
        exif_orientation=row["exif_orientation"],
        faces=None if row["status"] == "failed" else _faces_of_rows(faces),
        failure=Failure(row["reason"], row["message"]) if row["status"] == "failed" else None,
    )


def _faces_of_rows(rows: Sequence[Mapping[str, Any]]) -> Faces:
    return _faces_of({name: [row[name] for row in rows] for name in FACES_SCHEMA.names})


def faces_of_table(rows: pa.Table) -> Faces:
    """The faces of rows of `faces`, which may be of many images, without their hashes and crops."""
    columns: dict[str, Any] = {
        name: rows[name].to_numpy()
        for name, kind in zip(rows.column_names, rows.schema.types, strict=True)
        if pa.types.is_floating(kind)
    }
    points = rows["landmarks"].combine_chunks().flatten().to_numpy()
    return _faces_of({**columns, "landmarks": points, "reason": rows["reason"].to_pylist()})


def _faces_of(columns: Mapping[str, Any]) -> Faces:
    def stack(*names: str) -> np.ndarray:
        return np.array([columns[name] for name in names], np.float32).T

    return Faces(
        boxes=stack("x1", "y1", "x2", "y2"),
        scores=stack("score")[:, 0],
        landmarks=np.array(columns["landmarks"], np.float32).reshape(-1, 5, 2),
        angles_deg=stack("yaw_deg", "pitch_deg", "roll_deg"),
        interocular_px=stack("interocular_px")[:, 0],
        quality=stack(*QUALITY_COLUMNS),
        phashes=tuple(columns.get("phash", ())),
        reasons=tuple(reason or "" for reason in columns["reason"]),
    )


def face_rows(record: ImageRecord, unit: str, crop_names: tuple[str | None, ...]) -> list[dict[str, Any]]:
    """The rows of one image's faces; `crop_names` holds a name for each face that has a crop."""
    faces = record.faces
    if faces is None or not len(faces):
        return []
    assert faces.angles_deg is not None and faces.interocular_px is not None and faces.quality is not None
    return [
        {
            "face_id": f"{record.image_id}#{index}",
            "image_id": record.image_id,
            "unit": unit,
            "face_index": index,
            **dict(zip(("x1", "y1", "x2", "y2"), faces.boxes[index].tolist(), strict=True)),
            "score": float(faces.scores[index]),
            "landmarks": faces.landmarks[index].ravel().tolist(),
            **dict(zip(("yaw_deg", "pitch_deg", "roll_deg"), faces.angles_deg[index].tolist(), strict=True)),
            "interocular_px": float(faces.interocular_px[index]),
            **dict(zip(QUALITY_COLUMNS, faces.quality[index].tolist(), strict=True)),
            "phash": faces.phashes[index],
            "kept": reason == "",
            "reason": reason or None,
            "crop": crop_names[index],
            "label": record.label,
        }
        for index, reason in enumerate(faces.reasons)
    ]
