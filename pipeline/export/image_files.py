"""Crops as files of their own, and the table of faces that goes with formats which keep no more than a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256

from facemill.models.errors import OutputError
from facemill.pipeline.export.csv_rows import csv_row
from facemill.pipeline.export.files import ExportWriter
from facemill.pipeline.export.samples import Sample, Target
from facemill.pipeline.export.selection import FACE_COLUMNS
from facemill.transforms.ops.storage import Folder, output_error

_BATCH_FILES = 256
_BATCH_BYTES = 16 << 20
_UPLOADS_AT_ONCE = 16
_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
_LANDMARK_COLUMNS = tuple(f"{point}_{axis}" for point in _POINTS for axis in "xy")


class ImageFiles:
    """Writes small files, several at once where the store can do it."""

    def __init__(self, folder: Folder) -> None:
        self._fs = folder.fs
        self._root = folder.path
        self._is_local = folder.is_local
        self._pending: dict[str, bytes] = {}
        self._num_bytes = 0

    def add(self, name: str, content: bytes) -> None:
        """Write one file, now or with a later one."""
        self._pending[f"{self._root}/{name}"] = content
        self._num_bytes += len(content)
        if len(self._pending) >= _BATCH_FILES or self._num_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            OutputError: The store refuses it.
        """
        try:
            if self._is_local:
                for path, content in self._pending.items():
                    _write_local(path, content)
            else:
                with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
                    list(pool.map(self._fs.pipe_file, self._pending.keys(), self._pending.values()))
        except OSError as error:
            raise output_error(self._root, error) from error
        except UnicodeEncodeError as error:
            why = f"the name {error.object!a} cannot be written as {error.encoding}"
            raise OutputError(f"cannot write to {self._root}: {why}; set PYTHONUTF8=1") from error
        self._pending = {}
        self._num_bytes = 0


def _write_local(path: str, content: bytes) -> None:
    try:
        file = open(path, "wb")  # noqa: SIM115
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "wb")  # noqa: SIM115
    with file:
        file.write(content)


class FaceTable:
    """A CSV table: where a face is, its class, the crop's SHA-256, and its row."""

    def __init__(self, file: ExportWriter, place: str) -> None:
        self._file = file
        self._columns = [name for name in FACE_COLUMNS if name != "landmarks"]
        file.write(csv_row([place, "class", "class_name", "sha256", *self._columns, *_LANDMARK_COLUMNS]))

    def add(self, place: str, sample: Sample) -> None:
        """Add a row; nulls are empty."""
        values = (sample.face[name] for name in self._columns)
        digest = sha256(sample.content).hexdigest()
        landmarks = sample.face["landmarks"]
        self._file.write(csv_row([place, sample.class_index, sample.class_name, digest, *values, *landmarks]))


@contextmanager
def open_face_table(target: Target, split: str, place: str) -> Iterator[FaceTable]:
    """`SPLIT.csv`, which appears at the end of the block; `place` is what its first column is called."""
    with target.destination.create(f"{split}.csv") as file:
        yield FaceTable(file, place)
