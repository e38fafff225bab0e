"""Reading zip shards, member by member in the order of the central directory.

`zipfile.ZipFile` is not used: it holds the whole directory in memory, fails altogether on one undecodable name, and its
older versions let entries overlap. Layouts are those of PKWARE's APPNOTE 6.3.10, whose sections are named below.
"""

from __future__ import annotations

import bz2
import stat
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
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
from facemill.transforms.ops.records import Failure

_CHUNK_BYTES = 64 * 1024
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_MAX_COMMENT_BYTES = 0xFFFF
_UNSET16, _UNSET32 = 0xFFFF, 0xFFFFFFFF  # the value is in a zip64 record
_ENCRYPTED, _UTF8 = 0x1, 0x800  # 4.4.4
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12  # 4.4.5
_METHOD_NAMES = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    14: "lzma",
    93: "zstandard",
    95: "xz",
    98: "ppmd",
    99: "AES",
}
_SPECIAL_FILES = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class _Directory:
    start: int  # offset of the central directory in the file
    stop: int
    num_entries: int
    base: int  # bytes put before the archive, as in a self-extracting one


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    flags: int
    method: int
    crc32: int
    packed_size: int
    size: int
    header_offset: int
    unix_mode: int


@dataclass(frozen=True, slots=True)
class _Input:
    index: int  # in the directory
    name: str  # unique
    entry: _Entry
    failure: Failure | None  # what the directory alone tells


def iterate_zip(
    file: BinaryIO,
    *,
    limits: ReadLimits,
    ignored_extensions: Collection[str] = SIDECAR_EXTENSIONS,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Member]:
    """The inputs among the entries [start, stop) of a seekable zip file's directory.

    What is wrong with the archive ends it with a member without name; an OSError of `file` passes through.
    """
    try:
        directory = _find_directory(file)
        for item in _inputs(file, directory, limits, ignored_extensions):
            if stop is not None and item.index >= stop:
                return
            if item.index >= start:
                yield _member(file, directory, item)
    except BadInputError as error:
        yield failed_shard(error)


def split_zip(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Ranges of directory entries that take about `target_bytes` in the file; reads the central directory only."""
    ranges = []
    start = stop = num_bytes = 0
    try:
        for stop, entry in enumerate(_entries(file, _find_directory(file)), start=1):
            if num_bytes >= target_bytes:
                ranges.append(ShardRange(start, stop - 1, num_bytes))
                start, num_bytes = stop - 1, 0
            num_bytes += entry.packed_size
    except BadInputError:
        pass  # the last range meets and reports the same damage
    return [*ranges, ShardRange(start, stop, num_bytes)]


def _find_directory(file: BinaryIO) -> _Directory:
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
    return _Directory(start, stop, num_entries, start - offset)


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


def _inputs(
    file: BinaryIO, directory: _Directory, limits: ReadLimits, ignored_extensions: Collection[str]
) -> Iterator[_Input]:
    """The entries that are inputs; running sums over the directory tell bombs, so every range judges alike."""
    names = UniqueNames()
    archive_bytes = directory.start - directory.base
    num_packed = num_unpacked = 0
    for index, entry in enumerate(_entries(file, directory)):
        if entry.name.endswith("/") or is_ignored(entry.name, ignored_extensions):
            continue
        failure = _known_failure(entry, limits)
        num_packed += entry.packed_size + _LOCAL.size
        num_unpacked += entry.size if failure is None else 0
        if num_packed > archive_bytes:
            failure = Failure("read_error", "overlaps other members of the archive: a zip bomb, or damaged")
        elif num_unpacked > limits.max_expanded_bytes(archive_bytes):
            limit = limits.max_expanded_bytes(archive_bytes)
            failure = Failure("read_error", f"the members up to this one unpack to more than {limit} bytes: a zip bomb")
        yield _Input(index, names.add(entry.name or "unnamed"), entry, failure)


def _known_failure(entry: _Entry, limits: ReadLimits) -> Failure | None:
    special = _SPECIAL_FILES.get(stat.S_IFMT(entry.unix_mode))
    if special is not None:
        return Failure("read_error", f"{special}, not a regular file")
    if entry.flags & _ENCRYPTED:
        return Failure("read_error", "encrypted")
    if entry.method not in (_STORED, _DEFLATED, _BZIP2):
        method = _METHOD_NAMES.get(entry.method, str(entry.method))
        return Failure("read_error", f"zip compression {method} is not supported")
    return check_member_size(entry.size, limits)


class _DirectoryReader:
    """Reads the central directory in chunks while others move the file's position."""

    def __init__(self, file: BinaryIO, directory: _Directory) -> None:
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


def _entries(file: BinaryIO, directory: _Directory) -> Iterator[_Entry]:
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


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> _Entry:
    _, made_by, _, flags, method, _, _, crc32, packed_size, size, *_, attributes, header_offset = fields
    size, packed_size, header_offset = _zip64_values((size, packed_size, header_offset), extra)
    made_on_unix = made_by >> 8 in (3, 19)  # 4.4.2
    return _Entry(
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


def _member(file: BinaryIO, directory: _Directory, item: _Input) -> Member:
    label = folder_label(item.entry.name)
    if item.failure is not None:
        return Member(item.name, None, label, item.failure)
    try:
        return member_of(item.name, _read(file, directory, item.entry), label=label)
    except BadInputError as error:
        return failed_member(item.name, error.reason, error.message, label=label)


def _read(file: BinaryIO, directory: _Directory, entry: _Entry) -> bytes:
    offset = entry.header_offset + directory.base
    if offset + _LOCAL.size > directory.start:
        raise BadInputError("read_error", "damaged: lies outside the archive")
    file.seek(offset)
    header = read_up_to(file, _LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise BadInputError("read_error", f"damaged: no zip header at byte {offset}")
    name_size, extra_size = _LOCAL.unpack(header)[-2:]
    data_start = offset + _LOCAL.size + name_size + extra_size
    if data_start + entry.packed_size > directory.start:
        raise BadInputError("read_error", "damaged: reaches beyond the archive")
    file.seek(data_start)
    data = _unpack(file, entry)
    if len(data) != entry.size:
        raise BadInputError("read_error", f"damaged: does not hold the {entry.size} bytes that the zip directory says")
    if zlib.crc32(data) != entry.crc32:
        raise BadInputError("read_error", "damaged: the checksum does not match")
    return data


def _unpack(file: BinaryIO, entry: _Entry) -> bytes:
    """The member's bytes, never more than one beyond its size."""
    if entry.method == _STORED:
        return read_up_to(file, min(entry.packed_size, entry.size + 1))
    unpacker = bz2.BZ2Decompressor() if entry.method == _BZIP2 else zlib.decompressobj(-zlib.MAX_WBITS)
    parts = []
    num_missing = entry.size + 1
    num_packed = entry.packed_size
    while num_missing > 0 and not unpacker.eof and (packed := read_up_to(file, min(_CHUNK_BYTES, num_packed))):
        num_packed -= len(packed)
        try:
            parts.append(unpacker.decompress(packed, num_missing))
        except (zlib.error, OSError) as error:
            raise BadInputError("read_error", f"damaged: {error}") from error
        num_missing -= len(parts[-1])
    return b"".join(parts)
