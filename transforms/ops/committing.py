"""Writing one unit: rows and crops gathered, checked and committed as a whole."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.models.weights import model_files
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.crops import WriteOptions, encode_crop, open_crop_writer
from facemill.transforms.ops.layout import crop_key, faces_name, images_name, marker_name
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder, output_error
from facemill.transforms.ops.tables import (
    SCHEMA_VERSION,
    face_rows,
    faces_table,
    image_status,
    images_table,
    num_kept,
)


@dataclass(frozen=True)
class UnitSummary:
    """What a commit marker says."""

    unit: str
    fingerprint: str
    num_images: int
    num_faces: int
    num_kept: int
    num_crops: int
    num_capped: int
    num_bytes: int
    seconds: float
    statuses: dict[str, int]
    failure_reasons: dict[str, int]
    rejection_reasons: dict[str, int]

    def to_json(self) -> bytes:
        """The marker's content."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> UnitSummary:
        """The reverse of `to_json`; raises OutputError on anything else."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise OutputError(f"a commit marker is damaged ({error}); remove it to have its unit done again") from error


class UnitWriter:
    """Gathers one unit; `commit` writes crops, tables and, last, the marker.

    Rows are kept in memory until then (some 500 bytes each), crops go to their file as they come.
    """

    def __init__(self, output: Folder, unit: str, options: WriteOptions, fingerprint: str) -> None:
        self._output = output
        self._unit = unit
        self._options = options
        self._fingerprint = fingerprint
        try:
            self._crops = open_crop_writer(output, unit, options.crops)
        except OSError as error:
            raise output_error(output.path, error) from error
        self._records: list[ImageRecord] = []
        self._faces: list[dict[str, Any]] = []
        self._num_crops = 0

    @property
    def num_images(self) -> int:
        """How many images were added."""
        return len(self._records)

    def add(self, record: ImageRecord) -> None:
        """Add one image; raises OutputError if its crops cannot be written."""
        names = self._write_crops(record)
        self._faces.extend(face_rows(record, self._unit, names))
        self._records.append(_without_crops(record))
        heartbeat.count_image(num_bytes=record.num_bytes, num_kept=num_kept(record), failed=record.failure is not None)

    def _write_crops(self, record: ImageRecord) -> tuple[str | None, ...]:
        if record.faces is None:
            return ()
        names: list[str | None] = []
        for index, crop in enumerate(record.faces.crops):
            if crop is None or self._options.crops == "none":
                names.append(None)
                continue
            name = crop_key(self._unit, record.index, index) + self._options.extension
            try:
                self._crops.add(name, encode_crop(crop, self._options), record.label)
            except OSError as error:
                raise output_error(self._output.path, error) from error
            self._num_crops += 1
            names.append(name)
        return tuple(names)

    def commit(self, *, num_images: int, started_at: float) -> UnitSummary:
        """Check that all `num_images` arrived and that the counts balance, then commit.

        Raises:
            OutputError: Something is missing or twice there, or the store refused the write.
        """
        self._check(num_images)
        summary = self._summarize(time.time() - started_at)
        try:
            self._crops.commit()
        except OSError as error:
            raise output_error(self._output.path, error) from error
        self._write_table(faces_name(self._unit), faces_table(self._faces))
        self._write_table(images_name(self._unit), images_table(self._records, self._unit))
        self._output.write_bytes(marker_name(self._unit), summary.to_json())
        return summary

    def discard(self) -> None:
        """Give the unit up, leaving nothing behind."""
        self._crops.discard()

    def _check(self, num_images: int) -> None:
        indices = [record.index for record in self._records]
        if indices != list(range(num_images)):
            raise OutputError(
                f"unit {self._unit} does not balance: {num_images} images were read, {len(indices)} arrived at the "
                "writer, or in another order. The runner must keep the steps between read and write together"
            )
        kept = sum(row["kept"] for row in self._faces)
        if self._options.crops != "none" and self._num_crops != kept:
            raise OutputError(
                f"unit {self._unit} does not balance: {kept} faces are kept, {self._num_crops} have crops"
            )

    def _summarize(self, seconds: float) -> UnitSummary:
        records = self._records
        return UnitSummary(
            unit=self._unit,
            fingerprint=self._fingerprint,
            num_images=len(records),
            num_faces=len(self._faces),
            num_kept=sum(row["kept"] for row in self._faces),
            num_crops=self._num_crops,
            num_capped=sum(record.num_capped for record in records),
            num_bytes=sum(record.num_bytes for record in records),
            seconds=round(seconds, 3),
            statuses=dict(Counter(image_status(record) for record in records)),
            failure_reasons=dict(Counter(r.failure.reason for r in records if r.failure)),
            rejection_reasons=dict(Counter(row["reason"] for row in self._faces if row["reason"])),
        )

    def _write_table(self, name: str, table: pa.Table) -> None:
        made_by = {"schema_version": SCHEMA_VERSION, "fingerprint": self._fingerprint, "models": _model_digests()}
        table = table.replace_schema_metadata({"facemill": json.dumps(made_by)})
        with self._output.open_atomic(name) as file:
            pq.write_table(table, file, compression="zstd")


def _model_digests() -> dict[str, str]:
    return {file.name: file.sha256 for file in model_files()}


def _without_crops(record: ImageRecord) -> ImageRecord:
    """The record without the pixels of its crops, which are written by now."""
    if record.faces is None or not record.faces.crops:
        return record
    return replace(record, faces=replace(record.faces, crops=()))
