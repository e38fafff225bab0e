"""The crops put in order by files on disk, so that memory grows neither with their number nor with their size."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from facemill.models.errors import OutputError

_MAX_BUCKETS = 128  # each takes two open files
_MIN_BUCKET_ROWS = 4096
_BUFFER_BYTES = 1 << 17
_INDEX = np.dtype([("position", "<i8"), ("offset", "<i8"), ("num_bytes", "<i8")])
_ENTRY = struct.Struct("<qqq")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Buckets:
    """Files that take items of positions 0 to `num_items` - 1 in any order, and give them back in theirs.

    Each file takes a range of positions. What is in memory is the index of one file at a time.
    """

    def __init__(self, folder: Path, num_items: int) -> None:
        self._rows = max(_MIN_BUCKET_ROWS, -(-num_items // _MAX_BUCKETS))
        self._num_items = num_items
        self._paths = [folder / f"{index:03d}.crops" for index in range(-(-num_items // self._rows))]

    def fill(self, items: Iterator[tuple[int, bytes]]) -> None:
        """Take all items, as position and content.

        Raises:
            OutputError: The disk is full. Errors of the items themselves pass through.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(_BucketWriter(path)) for path in self._paths]
            for position, content in items:
                files[position // self._rows].add(position, content)

    def drain(self) -> Iterator[bytes]:
        """The contents in the order of their positions; each file is removed when all of it has been read.

        Raises:
            OutputError: A position was never filled, or twice; or a file cannot be read back.
        """
        for number, path in enumerate(self._paths):
            start = number * self._rows
            with _told("read", path):
                index = np.sort(np.fromfile(_index_path(path), _INDEX), order="position")
            expected = np.arange(start, min(start + self._rows, self._num_items))
            if not np.array_equal(index["position"], expected):
                raise OutputError(f"the export does not balance: {len(index)} crops came for {len(expected)} faces")
            yield from _read(path, index)
            with contextlib.suppress(OSError):
                path.unlink()


def _read(path: Path, index: np.ndarray) -> Iterator[bytes]:
    with _told("read", path):
        file = path.open("rb")
    with file:
        for offset, num_bytes in zip(index["offset"].tolist(), index["num_bytes"].tolist(), strict=True):
            with _told("read", path):
                file.seek(offset)
                content = file.read(num_bytes)
            yield content


class _BucketWriter:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        with _told("write", path):
            self._contents: BinaryIO = path.open("wb", _BUFFER_BYTES)
            self._index: BinaryIO = _index_path(path).open("wb")

    def add(self, position: int, content: bytes) -> None:
        with _told("write", self._path):
            self._contents.write(content)
            self._index.write(_ENTRY.pack(position, self._offset, len(content)))
        self._offset += len(content)

    def __enter__(self) -> _BucketWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError) if kind else _told("write", self._path), self._index, self._contents:
            pass  # closing writes what is buffered


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index")


@contextmanager
def _told(what: str, path: Path) -> Iterator[None]:
    """Say for the user what could not be read or written, and the way out where the disk is full."""
    try:
        yield
    except OSError as error:
        advice = "; --scratch names a folder with room for all crops" if error.errno in _FULL else ""
        raise OutputError(f"cannot {what} {path}: {error.strerror or error}{advice}") from error
