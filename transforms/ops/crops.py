"""Writers of aligned crops: WebDataset tar, plain files, Parquet, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg  # type: ignore[import-untyped]

from facemill.models.errors import ConfigError
from facemill.transforms.ops.layout import CropStore, crops_name
from facemill.transforms.ops.storage import AtomicFile, Folder
from facemill.transforms.ops.table_writer import TableWriter
from facemill.transforms.ops.tar_writing import tar_end, tar_member

_PARQUET_SCHEMA = pa.schema([("crop", pa.string()), ("image", pa.binary()), ("label", pa.string())])
_GROUP_ROWS = 256
_SUBSAMPLING = "420"  # of the colours, as OpenCV and Pillow do by default


@dataclass(frozen=True)
class WriteOptions:
    """How crops are stored.

    Attributes:
        crops: `tar` (WebDataset), `files`, `parquet`, or `none` for tables only.
        image_format: `jpeg`, or `png` for crops without loss.
        jpeg_quality: 1 to 100.
    """

    crops: CropStore = "tar"
    image_format: Literal["jpeg", "png"] = "jpeg"
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must lie in [1, 100], got {self.jpeg_quality}")

    @property
    def extension(self) -> str:
        """The extension of a crop's file name, with its dot."""
        return ".jpg" if self.image_format == "jpeg" else ".png"


def encode_crop(crop: np.ndarray, options: WriteOptions) -> bytes:
    """(H, W, 3) uint8 RGB, or (H, W, 4) of which the fourth is left aside -> the bytes of a JPEG or PNG file."""
    if options.image_format == "jpeg":
        # In less than half the time of cv2.imencode, by the same library.
        pixels = np.ascontiguousarray(crop)
        layout = "RGB" if crop.shape[2] == 3 else "RGBX"
        return bytes(simplejpeg.encode_jpeg(pixels, options.jpeg_quality, layout, _SUBSAMPLING, fastdct=False))
    done, encoded = cv2.imencode(options.extension, crop[:, :, 2::-1])
    assert done, f"OpenCV could not encode a crop of shape {crop.shape} as {options.image_format}"
    return encoded.tobytes()


class CropWriter(Protocol):
    """Takes the crops of one unit; nothing counts until `commit`."""

    def add(self, name: str, content: bytes, label: str | None) -> None:
        """Store one encoded crop under `name`."""

    def commit(self) -> None:
        """Make what was added appear."""

    def discard(self) -> None:
        """Leave nothing behind."""


def open_crop_writer(output: Folder, unit: str, store: CropStore, template: str = "") -> CropWriter:
    """The writer for `store`, writing below `output`; `template` is empty where it is alone."""
    name = crops_name(unit, store, template)
    if store == "tar":
        return _TarWriter(output, name)
    if store == "files":
        return _FilesWriter(output, name)
    if store == "parquet":
        return _ParquetWriter(output, name)
    return _NoWriter()


class _TarWriter:
    """One tar per unit, whose bytes depend on the crops alone."""

    def __init__(self, output: Folder, name: str) -> None:
        self._file = AtomicFile(output, name)

    def add(self, name: str, content: bytes, label: str | None) -> None:
        self._file.file.write(tar_member(name, content))

    def commit(self) -> None:
        self._file.file.write(tar_end(self._file.file.tell()))
        self._file.commit()

    def discard(self) -> None:
        self._file.discard()


class _FilesWriter:
    """One file per crop in a folder per unit; each is written atomically, and the unit's marker says when all are."""

    def __init__(self, output: Folder, folder: str) -> None:
        self._output = output
        self._folder = folder
        self._names: set[str] = set()

    def add(self, name: str, content: bytes, label: str | None) -> None:
        self._output.write_bytes(f"{self._folder}/{name}", content)
        self._names.add(name)

    def commit(self) -> None:
        # An earlier attempt may have kept other faces, for instance of a file that has since become unreadable.
        for name in self._output.list_names(self._folder):
            if name not in self._names and not name.startswith("."):
                self._output.remove(f"{self._folder}/{name}")

    def discard(self) -> None:
        pass


class _ParquetWriter:
    """One Parquet file per unit, with the encoded crops as a binary column."""

    def __init__(self, output: Folder, name: str) -> None:
        self._table = TableWriter(output, name, _PARQUET_SCHEMA, group_rows=_GROUP_ROWS, compression="none")

    def add(self, name: str, content: bytes, label: str | None) -> None:
        self._table.add([{"crop": name, "image": content, "label": label}])

    def commit(self) -> None:
        self._table.commit()

    def discard(self) -> None:
        self._table.discard()


class _NoWriter:
    def add(self, name: str, content: bytes, label: str | None) -> None:
        pass

    def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass
