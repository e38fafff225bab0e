"""The crops put in order by files on disk, so that memory grows neither with their number nor with their size."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from facemill.models.errors import OutputError
from facemill.transforms.ops.storage import output_error

_MAX_BUCKETS = 128  # each takes two open files
_MIN_BUCKET_ROWS = 4096
_BUFFER_BYTES = 1 << 17
_INDEX = np.dtype([("position", "<i8"), ("offset", "<i8"), ("num_bytes", "<i8")])
_ENTRY = struct.Struct("<qqq")


class Buckets:
    """Files that take items of positions 0 to `num_items` - 1 in any order, and give them back in theirs.

    Each file takes a range of positions. What is in memory is the index of one file at a time.
    """

    def __init__(self, folder: Path, num_items: int) -> None:
        self._rows = max(_MIN_BUCKET_ROWS, -(-num_items // _MAX_BUCKETS))
        self._num_items = num_items
        self._folder = folder
        self._paths = [folder / f"{index:03d}.crops" for index in range(-(-num_items // self._rows))]

    def fill(self, items: Iterator[tuple[int, bytes]]) -> None:
        """Take all items, as position and content.

        Raises:
            OutputError: The disk is full.
        """
        try:
            with ExitStack() as stack:
                files = [_BucketWriter(path, stack) for path in self._paths]
                for position, content in items:
                    files[position // self._rows].add(position, content)
        except OSError as error:
            raise _full(self._folder, error) from error

    def drain(self) -> Iterator[bytes]:
        """The contents in the order of their positions; each file is removed when all of it has been read.

        Raises:
            OutputError: A position was never filled, or twice.
        """
        for number, path in enumerate(self._paths):
            start = number * self._rows
            index = np.sort(np.fromfile(_index_path(path), _INDEX), order="position")
            expected = np.arange(start, min(start + self._rows, self._num_items))
            if not np.array_equal(index["position"], expected):
                raise OutputError(f"the export does not balance: {len(index)} crops came for {len(expected)} faces")
            with path.open("rb") as file:
                for offset, num_bytes in zip(index["offset"].tolist(), index["num_bytes"].tolist(), strict=True):
                    file.seek(offset)
                    yield file.read(num_bytes)
            with contextlib.suppress(OSError):
                path.unlink()


class _BucketWriter:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._contents: BinaryIO = stack.enter_context(path.open("wb", _BUFFER_BYTES))
        self._index: BinaryIO = stack.enter_context(_index_path(path).open("wb"))
        self._offset = 0

    def add(self, position: int, content: bytes) -> None:
        self._contents.write(content)
        self._index.write(_ENTRY.pack(position, self._offset, len(content)))
        self._offset += len(content)


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index")


def _full(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{output_error(str(folder), error)}; --scratch names a folder with room for all crops")
