"""The central directory of a zip archive, read in chunks.

`zipfile.ZipFile` is not used: it holds the whole directory in memory, fails altogether on one undecodable name, and its
older versions let entries overlap. Layouts are those of PKWARE's APPNOTE 6.3.10, whose sections are named below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import file_size, read_up_to

_CHUNK_BYTES = 64 * 1024
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_MAX_COMMENT_BYTES = 0xFFFF
_UNSET16, _UNSET32 = 0xFFFF, 0xFFFFFFFF  # the value is in a zip64 record
_UTF8 = 0x800  # 4.4.4


@dataclass(frozen=True, slots=True)
class ZipDirectory:
    """Where the central directory lies, in bytes of the file."""

    start: int
    stop: int
    num_entries: int
    base: int  # bytes put before the archive, as in a self-extracting one


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """What the directory says of one member; sizes in bytes."""

    name: str
    flags: int
    method: int
    crc32: int
    packed_size: int
    size: int
    header_offset: int  # from the start of the archive
    unix_mode: int  # 0 where the archive was not made on Unix


def find_directory(file: BinaryIO) -> ZipDirectory:
    """Where the central directory lies, by the records at the end of the file; BadInputError if there are none."""
    size = file_size(file)
    if size == 0:
        raise BadInputError("empty", "the file has no bytes")
    tail_start = max(0, size - _END.size - _MAX_COMMENT_BYTES)
    file.seek(tail_start)
    tail = read_up_to(file, size - tail_start)
    found = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if found < 0:
        raise BadInputError("read_error", "no zip directory at its end: cut short, or not a zip archive")
    _, _, disk, _, num_entries, length, offset, _ = _END.unpack_from(tail, found)
    stop = tail_start + found
    if end64 := _find_end64(file, stop):
        stop, disk, num_entries, length, offset = end64
    start = stop - length
    if disk not in (0, _UNSET16, _UNSET32):
        raise BadInputError("read_error", "one part of a zip archive that spans several files")
    if start < offset:
        raise BadInputError("read_error", "damaged: the zip directory lies outside the file")
    return ZipDirectory(start, stop, num_entries, start - offset)


def _find_end64(file: BinaryIO, end_offset: int) -> tuple[int, int, int, int, int] | None:
    """Offset, disk, entries, length and start by the zip64 record in front of the end record, if there is one."""
    position = end_offset - _LOCATOR64.size - _END64.size
    if position < 0:
        return None
    file.seek(position)
    data = read_up_to(file, _END64.size + _LOCATOR64.size)
    if data[_END64.size : _END64.size + 4] != b"PK\6\7":
        return None
    if data[:4] != b"PK\6\6":
        raise BadInputError("read_error", "damaged: no zip64 record where its locator says")
    _, _, _, _, disk, _, _, num_entries, length, offset = _END64.unpack_from(data)
    return position, disk, num_entries, length, offset


class _DirectoryReader:
    """Reads the central directory in chunks while others move the file's position."""

    def __init__(self, file: BinaryIO, directory: ZipDirectory) -> None:
        self._file = file
        self._next = directory.start
        self._stop = directory.stop
        self._buffer = b""
        self._used = 0

    def take(self, num_bytes: int) -> bytes:
        """The next bytes, fewer at the directory's end."""
        while len(self._buffer) - self._used < num_bytes and self._next < self._stop:
            self._file.seek(self._next)
            chunk = read_up_to(self._file, min(_CHUNK_BYTES, self._stop - self._next))
            if not chunk:
                break
            self._next += len(chunk)
            self._buffer = self._buffer[self._used :] + chunk
            self._used = 0
        taken = self._buffer[self._used : self._used + num_bytes]
        self._used += len(taken)
        return taken


def zip_entries(file: BinaryIO, directory: ZipDirectory) -> Iterator[ZipEntry]:
    """The entries in order, whatever the caller reads in between; BadInputError where the directory breaks off."""
    reader = _DirectoryReader(file, directory)
    num_entries = 0
    while header := reader.take(_CENTRAL.size):
        if len(header) < _CENTRAL.size or header[:4] != b"PK\1\2":
            raise BadInputError("read_error", f"damaged: the zip directory breaks off after {num_entries} entries")
        fields = _CENTRAL.unpack(header)
        name_size, extra_size, comment_size = fields[10:13]
        variable = reader.take(name_size + extra_size + comment_size)
        if len(variable) < name_size + extra_size + comment_size:
            raise BadInputError("read_error", f"damaged: the zip directory breaks off after {num_entries} entries")
        num_entries += 1
        yield _entry(fields, variable[:name_size], variable[name_size : name_size + extra_size])
    # Writers without zip64 let the 16-bit count wrap.
    if num_entries != directory.num_entries and num_entries & _UNSET16 != directory.num_entries:
        raise BadInputError("read_error", f"damaged: {num_entries} entries, the zip says {directory.num_entries}")


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> ZipEntry:
    _, made_by, _, flags, method, _, _, crc32, packed_size, size, *_, attributes, header_offset = fields
    size, packed_size, header_offset = _zip64_values((size, packed_size, header_offset), extra)
    made_on_unix = made_by >> 8 in (3, 19)  # 4.4.2
    return ZipEntry(
        name=_decode_name(raw_name, flags),
        flags=flags,
        method=method,
        crc32=crc32,
        packed_size=packed_size,
        size=size,
        header_offset=header_offset,
        unix_mode=attributes >> 16 if made_on_unix else 0,
    )


def _zip64_values(values: tuple[int, ...], extra: bytes) -> list[int]:
    """Size, packed size and offset, each replaced by its 64-bit value where it is unset (4.5.3)."""
    wide = _extra_field(extra, 1)
    result = []
    for value in values:
        if value == _UNSET32 and len(wide) >= 8:
            value = int.from_bytes(wide[:8], "little")
            wide = wide[8:]
        result.append(value)
    return result


def _extra_field(extra: bytes, field_id: int) -> bytes:
    position = 0
    while position + 4 <= len(extra):
        found_id, size = struct.unpack_from("<2H", extra, position)
        if found_id == field_id:
            return extra[position + 4 : position + 4 + size]
        position += 4 + size
    return b""


def _decode_name(raw_name: bytes, flags: int) -> str:
    """Without the UTF-8 flag a name is in code page 437 (appendix D), but macOS writes UTF-8 all the same."""
    if flags & _UTF8:
        name = raw_name.decode("utf-8", "backslashreplace")
    else:
        try:
            name = raw_name.decode("utf-8")
        except UnicodeDecodeError:
            name = raw_name.decode("cp437")
    # Old .NET versions write backslashes between folders.
    return name if "/" in name else name.replace("\\", "/")
