"""Writing one unit: rows and crops gathered, checked and committed as a whole."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from facemill.models.errors import OutputError
from facemill.models.weights import model_files
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.crops import CropWriter, WriteOptions, open_crop_writer
from facemill.transforms.ops.layout import crop_key, faces_name, images_name, marker_name, template_folders
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder, output_error
from facemill.transforms.ops.table_writer import TableWriter
from facemill.transforms.ops.tables import (
    FACES_SCHEMA,
    IMAGES_SCHEMA,
    SCHEMA_VERSION,
    face_rows,
    image_row,
    image_status,
    num_kept,
)

_GROUP_ROWS = 4096


@dataclass
class UnitSummary:
    """What a commit marker says.

    `num_crops` counts faces that have a crop, in however many templates; `source_digest` is of the marker in the
    earlier output that the unit is made from, `crops_digest` of the one that was committed with the unit's crops, where
    these lie in an earlier output.
    """

    unit: str
    fingerprint: str
    num_images: int = 0
    num_faces: int = 0
    num_kept: int = 0
    num_crops: int = 0
    num_capped: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    failure_reasons: dict[str, int] = field(default_factory=dict)
    rejection_reasons: dict[str, int] = field(default_factory=dict)
    source_digest: str = ""
    crops_digest: str = ""

    def to_json(self) -> bytes:
        """The marker's content."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, shown: str) -> UnitSummary:
        """The reverse of `to_json`; raises OutputError on anything else, which names the file as `shown`."""
        try:
            tree = json.loads(content)
            if not isinstance(tree, dict):
                raise TypeError(f"it holds no object but {type(tree).__name__}")
            summary = cls(**tree)
            _check_types(summary)
        except (ValueError, TypeError, RecursionError) as error:  # the latter of deep nesting
            why = f"the commit marker {shown} is damaged ({error}); remove it to have its unit done again"
            raise OutputError(why) from error
        return summary


def _check_types(summary: UnitSummary) -> None:
    """Raise TypeError where a value is not of the type of its default."""
    for name, value in vars(summary).items():
        wanted = _TYPES[name]
        is_right = type(value) is wanted or (wanted is float and type(value) is int)
        if not is_right or (wanted is dict and any(type(count) is not int for count in value.values())):
            raise TypeError(f"{name} is {value!r}")


_TYPES = {name: type(value) for name, value in vars(UnitSummary("", "")).items()}


def read_marker(output: Folder, unit: str) -> bytes:
    """The content of a commit marker.

    Raises:
        OutputError: There is none.
    """
    try:
        return output.read_bytes(marker_name(unit))
    except FileNotFoundError as error:
        raise OutputError(f"{unit} is not committed in {output.uri}; finish the run that made it first") from error


def digest_marker(content: bytes) -> str:
    """The SHA-256 of a marker: another one once its unit was done again, as it says how long that took."""
    return hashlib.sha256(content).hexdigest()


class UnitWriter:
    """Writes the rows and crops of one unit as they come; `commit` makes them appear and writes the marker, last.

    `templates` are the names of those that the crops come in.

    Raises:
        OutputError: From every method, where the store refuses the write.
    """

    def __init__(
        self, output: Folder, unit: str, options: WriteOptions, fingerprint: str, templates: Sequence[str]
    ) -> None:
        self._output = output
        self._unit = unit
        self._options = options
        self._summary = UnitSummary(unit, fingerprint)
        self._is_in_order = True
        self._num_files = 0  # of crops in all templates
        self._parts: list[CropWriter | TableWriter] = []
        try:
            self._crops = [self._open_crops(folder) for folder in template_folders(templates)]
            self._faces = self._open_table(faces_name(unit), FACES_SCHEMA)
            self._images = self._open_table(images_name(unit), IMAGES_SCHEMA)
        except BaseException:
            self.discard()
            raise

    def _open_crops(self, template: str) -> CropWriter:
        writer = open_crop_writer(self._output, self._unit, self._options.crops, template)
        self._parts.append(writer)
        return writer

    def _open_table(self, name: str, schema: pa.Schema) -> TableWriter:
        models = {file.name: file.sha256 for file in model_files()}
        made_by = {"schema_version": SCHEMA_VERSION, "fingerprint": self._summary.fingerprint, "models": models}
        writer = TableWriter(
            self._output,
            name,
            schema,
            group_rows=_GROUP_ROWS,
            compression="zstd",
            metadata={"facemill": json.dumps(made_by)},
        )
        self._parts.append(writer)
        return writer

    def add(self, record: ImageRecord) -> None:
        """Add one image, its faces and their crops."""
        with self._writing():
            crop_names = self._write_crops(record)
            self._faces.add(face_rows(record, self._unit, crop_names))
            self._images.add([image_row(record, self._unit)])
        self._count(record)
        heartbeat.count_image(num_bytes=record.num_bytes, num_kept=num_kept(record), failed=record.failure is not None)

    def commit(self, *, num_images: int, started_at: float, source_digest: str = "") -> UnitSummary:
        """Check that all `num_images` arrived in order and that the counts balance, then commit.

        Raises:
            OutputError: Also if something is missing or there twice.
        """
        self._check(num_images)
        self._summary.source_digest = source_digest
        self._summary.seconds = round(time.time() - started_at, 3)
        with self._writing():
            for part in self._parts:
                part.commit()
        self._output.write_bytes(marker_name(self._unit), self._summary.to_json())
        return self._summary

    def discard(self) -> None:
        """Give the unit up, leaving nothing behind."""
        for part in self._parts:
            part.discard()

    def _write_crops(self, record: ImageRecord) -> tuple[str | None, ...]:
        """The name of each face's crop, which is the same in all templates; None where there is none."""
        if record.faces is None:
            return ()
        if self._options.crops == "none":
            return (None,) * len(record.faces)
        names: list[str | None] = []
        for index, contents in enumerate(record.faces.crops):
            name = None if contents is None else crop_key(self._unit, record.index, index) + self._options.extension
            if contents is not None and name is not None:
                for writer, content in zip(self._crops, contents, strict=True):
                    writer.add(name, content, record.label)
                self._summary.num_crops += 1
                self._num_files += len(contents)
            names.append(name)
        return tuple(names)

    def _count(self, record: ImageRecord) -> None:
        summary = self._summary
        self._is_in_order &= record.index == summary.num_images
        summary.num_images += 1
        summary.num_bytes += record.num_bytes
        summary.num_capped += record.num_capped
        summary.num_kept += num_kept(record)
        _increment(summary.statuses, image_status(record))
        if record.failure is not None:
            _increment(summary.failure_reasons, record.failure.reason)
        if record.faces is not None:
            summary.num_faces += len(record.faces)
            for reason in filter(None, record.faces.reasons):
                _increment(summary.rejection_reasons, reason)

    def _check(self, num_images: int) -> None:
        summary = self._summary
        if summary.num_images != num_images or not self._is_in_order:
            raise OutputError(
                f"unit {self._unit} does not balance: {num_images} images were read, {summary.num_images} arrived at "
                "the writer, or in another order. The runner must keep the steps between read and write together"
            )
        if self._options.crops != "none" and self._num_files != summary.num_kept * len(self._crops):
            raise OutputError(
                f"unit {self._unit} does not balance: {summary.num_kept} faces kept, {self._num_files} crops in "
                f"{len(self._crops)} templates"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(self._output.path, error) from error


def _increment(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
