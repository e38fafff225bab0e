"""The bytes of a shard that is read from its start, plain or gzipped, in bounded steps."""

from __future__ import annotations

import zlib
from typing import BinaryIO, Protocol

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import ReadLimits, file_size, read_up_to

_CHUNK_BYTES = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


class ByteSource(Protocol):
    """The unpacked bytes of a file from some offset on; `position` counts them from its start."""

    position: int

    def read(self, num_bytes: int) -> bytes:
        """`num_bytes` bytes, fewer only at the end."""

    def skip(self, num_bytes: int) -> bool:
        """Whether there were that many bytes to skip."""


class PlainSource:
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

    def seek(self, position: int) -> None:
        """Go on reading from `position`."""
        self.position = position
        self._file.seek(position)


class GzipSource:
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
        """Whether another gzip member follows, which zeros may pad."""
        while not self._packed and (chunk := self._file.read(_CHUNK_BYTES)):
            self._packed = chunk.lstrip(b"\0")
        self._packed = self._packed.lstrip(b"\0")
        if not self._packed:
            return False
        if self._packed[:1] != _GZIP_MAGIC[:1]:
            raise BadInputError("read_error", "the gzip stream is damaged: neither a member nor zeros follow")
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True


def is_gzipped(file: BinaryIO) -> bool:
    """Whether the file begins like a gzip stream; leaves it behind its first two bytes."""
    file.seek(0)
    return read_up_to(file, 2) == _GZIP_MAGIC
