"""Reading zip shards, member by member in the order of the central directory; sections are those of APPNOTE 6.3.10."""

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
    folder_label,
    is_ignored,
    member_of,
    read_up_to,
)
from facemill.transforms.ops.records import Failure
from facemill.transforms.ops.zip_directory import ZipDirectory, ZipEntry, find_directory, zip_entries

_CHUNK_BYTES = 64 * 1024
_MAX_RANGES = 256
_LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_ENCRYPTED = 0x1  # 4.4.4
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
class _Input:
    index: int  # in the directory
    name: str  # unique
    entry: ZipEntry
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
        directory = find_directory(file)
        for item in _inputs(file, directory, limits, ignored_extensions, stop):
            if item.index >= start:
                yield _member(file, directory, item)
    except BadInputError as error:
        yield failed_shard(error)


def split_zip(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Ranges of directory entries that take about `target_bytes` in the file; reads the central directory only.

    There are about `_MAX_RANGES` at most, as the reader of each goes through the directory from its start.
    """
    ranges = []
    start = stop = num_bytes = 0
    try:
        directory = find_directory(file)
        target_bytes = max(target_bytes, (directory.start - directory.base) // _MAX_RANGES)
        for stop, entry in enumerate(zip_entries(file, directory), start=1):
            if num_bytes >= target_bytes:
                ranges.append(ShardRange(start, stop - 1, num_bytes))
                start, num_bytes = stop - 1, 0
            num_bytes += entry.packed_size
    except BadInputError:
        pass  # the last range meets and reports the same damage
    return [*ranges, ShardRange(start, stop, num_bytes)]


def _inputs(
    file: BinaryIO, directory: ZipDirectory, limits: ReadLimits, ignored_extensions: Collection[str], stop: int | None
) -> Iterator[_Input]:
    """The entries that are inputs; running sums over the directory tell bombs, so every range judges alike."""
    names = UniqueNames()
    archive_bytes = directory.start - directory.base
    num_packed = num_unpacked = 0
    for index, entry in enumerate(zip_entries(file, directory)):
        if stop is not None and index >= stop:
            return
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


def _known_failure(entry: ZipEntry, limits: ReadLimits) -> Failure | None:
    special = _SPECIAL_FILES.get(stat.S_IFMT(entry.unix_mode))
    if special is not None:
        return Failure("read_error", f"{special}, not a regular file")
    if entry.flags & _ENCRYPTED:
        return Failure("read_error", "encrypted")
    if entry.method not in (_STORED, _DEFLATED, _BZIP2):
        method = _METHOD_NAMES.get(entry.method, str(entry.method))
        return Failure("read_error", f"zip compression {method} is not supported")
    return check_member_size(entry.size, limits)


def _member(file: BinaryIO, directory: ZipDirectory, item: _Input) -> Member:
    label = folder_label(item.entry.name)
    if item.failure is not None:
        return Member(item.name, None, label, item.failure)
    try:
        return member_of(item.name, _read(file, directory, item.entry), label=label)
    except BadInputError as error:
        return failed_member(item.name, error.reason, error.message, label=label)


def _read(file: BinaryIO, directory: ZipDirectory, entry: ZipEntry) -> bytes:
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


def _unpack(file: BinaryIO, entry: ZipEntry) -> bytes:
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
