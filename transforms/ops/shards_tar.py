"""Reading tar shards, plain or gzipped, member by member."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import BinaryIO

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import (
    SIDECAR_EXTENSIONS,
    Member,
    ReadLimits,
    ShardRange,
    UniqueNames,
    check_member_size,
    failed_member,
    failed_shard,
    file_size,
    folder_label,
    is_ignored,
    member_of,
    read_up_to,
)
from facemill.transforms.ops.tar_headers import TarEntry, TarSource, tar_entries

_CHUNK_BYTES = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


class _PlainSource:
    """Reads from `start` on and skips by seeking."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._size = file_size(file)
        self.position = start
        file.seek(start)

    def read(self, num_bytes: int) -> bytes:
        data = read_up_to(self._file, min(num_bytes, max(0, self._size - self.position)))
        self.position += len(data)
        return data

    def skip(self, num_bytes: int) -> bool:
        if self.position + num_bytes > self._size:
            return False
        self.position += num_bytes
        self._file.seek(self.position)
        return True


class _GzipSource:
    """Unpacks one or more gzip members in bounded steps, and stops at a bomb."""

    def __init__(self, file: BinaryIO, limits: ReadLimits) -> None:
        self._max_bytes = limits.max_expanded_bytes(file_size(file))
        self._file = file
        self._packed = b""
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.position = 0
        file.seek(0)

    def read(self, num_bytes: int) -> bytes:
        parts = []
        missing = num_bytes
        while missing > 0 and (part := self._unpack(missing)):
            parts.append(part)
            missing -= len(part)
        self.position += num_bytes - missing
        if self.position > self._max_bytes:
            raise BadInputError("read_error", f"unpacks to more than {self._max_bytes} bytes: a decompression bomb")
        return b"".join(parts)

    def skip(self, num_bytes: int) -> bool:
        while num_bytes > 0 and (part := self.read(min(num_bytes, _CHUNK_BYTES))):
            num_bytes -= len(part)
        return num_bytes == 0

    def _unpack(self, max_bytes: int) -> bytes:
        while not self._unpacker.eof or self._next_gzip_member():
            packed = self._packed or self._file.read(_CHUNK_BYTES)
            try:
                unpacked = self._unpacker.decompress(packed, max_bytes)
            except zlib.error as error:
                raise BadInputError("read_error", f"the gzip stream is damaged: {error}") from error
            self._packed = self._unpacker.unused_data if self._unpacker.eof else self._unpacker.unconsumed_tail
            if unpacked:
                return unpacked
            if not packed and not self._unpacker.eof:
                raise BadInputError("truncated", "the gzip stream is cut short")
        return b""

    def _next_gzip_member(self) -> bool:
        """Whether another gzip member follows; as the gzip command does, skips zeros and ignores other bytes."""
        while not self._packed and (chunk := self._file.read(_CHUNK_BYTES)):
            self._packed = chunk.lstrip(b"\0")
        self._packed = self._packed.lstrip(b"\0")
        if self._packed[:1] != _GZIP_MAGIC[:1]:
            return False
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True


def iterate_tar(
    file: BinaryIO,
    *,
    limits: ReadLimits,
    ignored_extensions: Collection[str] = SIDECAR_EXTENSIONS,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Member]:
    """The inputs of a seekable tar file whose headers lie in [start, stop) bytes; a gzipped one is read whole.

    What is wrong with the archive ends it with a member without name; an OSError of `file` passes through.
    """
    names = UniqueNames()
    try:
        size = file_size(file)
        if size == 0:
            raise BadInputError("empty", "the file has no bytes")
        gzipped = _is_gzipped(file)
        source = _GzipSource(file, limits) if gzipped else _PlainSource(file, start)
        for entry in tar_entries(source, None if gzipped or stop is None or stop >= size else stop):
            if not entry.is_folder and not is_ignored(entry.name, ignored_extensions):
                yield _member(source, entry, names.add(entry.name), limits)
    except BadInputError as error:
        yield failed_shard(error)


def split_tar(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Byte ranges of about `target_bytes`, by one pass over the headers.

    One range where parts cannot be read on their own: gzipped, or with names that repeat (they are numbered in order).
    """
    size = file_size(file)
    whole = [ShardRange(0, size, size)]
    if _is_gzipped(file):
        return whole
    names = UniqueNames()
    bounds = [0]
    try:
        for entry in tar_entries(_PlainSource(file, 0), None):
            if not entry.is_folder and names.add(entry.name) != entry.name:
                return whole
            if entry.offset - bounds[-1] >= target_bytes:
                bounds.append(entry.offset)
    except BadInputError:
        pass  # the last range reaches to the end of the file, so its reader meets and reports the same damage
    return [ShardRange(first, last, last - first) for first, last in pairwise([*bounds, size])]


def _is_gzipped(file: BinaryIO) -> bool:
    file.seek(0)
    return read_up_to(file, 2) == _GZIP_MAGIC


def _member(source: TarSource, entry: TarEntry, name: str, limits: ReadLimits) -> Member:
    label = folder_label(entry.name)
    if entry.problem is not None:
        return failed_member(name, "read_error", f"{entry.problem}, not a regular file", label=label)
    if failure := check_member_size(entry.size, limits):
        return Member(name, None, label, failure)
    data = source.read(entry.size)
    if len(data) < entry.size:
        raise BadInputError("truncated", f"cut short within {entry.name[:200]!r}")
    return member_of(name, data, label=label)
