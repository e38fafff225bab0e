"""Reading tar shards, plain or gzipped, member by member.

`tarfile.TarFile` is not used: it reads extended headers of any claimed size into memory, recurses along chains of them,
and takes a damaged header for the end of the archive. Its header parser, `TarInfo.frombuf`, is.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Protocol

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

_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 64 * 1024
_MAX_EXTENDED_HEADER_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"
_VOLUME_HEADER, _FOLDER_DUMP, _CONTINUATION = b"V", b"D", b"M"  # GNU tar manual, "Basic Tar Format"
_GLOBAL_HEADERS = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
_LOCAL_HEADERS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_FOLDERS = (tarfile.DIRTYPE, _VOLUME_HEADER, _FOLDER_DUMP)
_WITHOUT_DATA = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}
_WITH_DATA = {tarfile.GNUTYPE_SPARSE: "a sparse file", _CONTINUATION: "a part of a multi-volume archive"}
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


class _Source(Protocol):
    position: int

    def read(self, num_bytes: int) -> bytes: ...

    def skip(self, num_bytes: int) -> bool: ...


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
        """Whether there were that many bytes to skip."""
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


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    offset: int  # of its first header
    size: int  # stored bytes
    problem: str | None  # what it is when it is no regular file
    is_folder: bool


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
        for entry in _entries(source, None if gzipped or stop is None or stop >= size else stop):
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
        for entry in _entries(_PlainSource(file, 0), None):
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


def _member(source: _Source, entry: _Entry, name: str, limits: ReadLimits) -> Member:
    label = folder_label(entry.name)
    if entry.problem is not None:
        return failed_member(name, "read_error", f"{entry.problem}, not a regular file", label=label)
    if failure := check_member_size(entry.size, limits):
        return Member(name, None, label, failure)
    data = source.read(entry.size)
    if len(data) < entry.size:
        raise BadInputError("truncated", f"cut short within {entry.name[:200]!r}")
    return member_of(name, data, label=label)


def _entries(source: _Source, stop: int | None) -> Iterator[_Entry]:
    """Every entry; the source stands at its data, and what the caller leaves unread is skipped."""
    overrides: dict[str, str] = {}
    first_offset = None
    for offset, block, info in _headers(source, stop):
        if info.type in _GLOBAL_HEADERS:
            _skip(source, _padded(info.size), "a global header")
        elif info.type in _LOCAL_HEADERS:
            overrides |= _extended_header(source, info)
            first_offset = offset if first_offset is None else first_offset
        else:
            if info.type == tarfile.GNUTYPE_SPARSE:
                _skip_sparse_map(source, block)
            entry = _entry(info, overrides, offset if first_offset is None else first_offset)
            overrides, first_offset = {}, None
            end = source.position + _padded(entry.size)
            yield entry
            _skip(source, end - source.position, repr(entry.name[:200]))
    if first_offset is not None:
        raise BadInputError("truncated", f"the extended header at byte {first_offset} has no member")


def _headers(source: _Source, stop: int | None) -> Iterator[tuple[int, bytes, tarfile.TarInfo]]:
    """Offset, block and fields of each header; the caller moves the source past the data.

    Goes on behind an end mark while headers follow (`cat a.tar b.tar`), so that no member is passed over in silence.
    """
    ended = False
    while stop is None or source.position < stop:
        offset = source.position
        block = source.read(_BLOCK)
        if len(block) == _BLOCK and not any(block):
            ended = True
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            if ended:
                return
            raise _header_error(offset, is_short=offset > 0 and len(block) < _BLOCK) from error
        ended = False
        yield offset, block, info


def _header_error(offset: int, *, is_short: bool) -> BadInputError:
    if is_short:
        return BadInputError("truncated", f"stops at byte {offset} without the mark that ends a tar archive")
    if offset == 0:
        return BadInputError("read_error", "not a tar archive")
    return BadInputError("read_error", f"damaged: no tar header at byte {offset}")


def _extended_header(source: _Source, info: tarfile.TarInfo) -> dict[str, str]:
    """What a PAX or GNU long-name header says of the member behind it."""
    if not 0 <= info.size <= _MAX_EXTENDED_HEADER_BYTES:
        limit = _MAX_EXTENDED_HEADER_BYTES
        raise BadInputError("read_error", f"damaged: an extended header of {info.size} bytes, the limit is {limit}")
    payload = source.read(_padded(info.size))[: info.size]
    if len(payload) < info.size:
        raise BadInputError("truncated", "cut short within an extended header")
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _text(payload.split(b"\0", 1)[0])}
    return _pax_records(payload)


def _pax_records(payload: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` (POSIX.1-2008, pax, "Extended Header"), where LENGTH counts the whole record."""
    records = {}
    position = 0
    while position < len(payload) and payload[position] != 0:
        match = _PAX_RECORD.match(payload, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(payload):
            raise BadInputError("read_error", "damaged: a malformed PAX header")
        records[_text(match[2])] = _text(payload[match.end() : end - 1])
        position = end
    return records


def _skip_sparse_map(source: _Source, block: bytes) -> None:
    """Moves past the blocks that continue a GNU sparse header; bytes 482 and 504 say whether one follows."""
    continued = block[482]
    while continued:
        block = source.read(_BLOCK)
        if len(block) < _BLOCK:
            raise BadInputError("truncated", "cut short within the map of a sparse file")
        continued = block[504]


def _entry(info: tarfile.TarInfo, overrides: dict[str, str], offset: int) -> _Entry:
    size = _member_size(info, overrides)
    is_sparse = any(key.startswith("GNU.sparse.") for key in overrides)
    return _Entry(
        name=overrides.get("GNU.sparse.name") or overrides.get("path") or info.name or "unnamed",
        offset=offset,
        size=0 if info.type in _WITHOUT_DATA or info.type == tarfile.DIRTYPE else size,
        problem=_WITH_DATA[tarfile.GNUTYPE_SPARSE] if is_sparse else (_WITHOUT_DATA | _WITH_DATA).get(info.type),
        is_folder=info.type in _FOLDERS,
    )


def _member_size(info: tarfile.TarInfo, overrides: dict[str, str]) -> int:
    """Stored bytes; a PAX header gives those that do not fit into the 11 octal digits of the plain one."""
    text = overrides.get("size", str(info.size))
    if not re.fullmatch("[0-9]{1,30}", text):
        raise BadInputError("read_error", f"damaged: {info.name[:200]!r} claims a size of {text[:30]} bytes")
    return int(text)


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK) * _BLOCK


def _skip(source: _Source, num_bytes: int, what: str) -> None:
    if num_bytes < 0:
        raise BadInputError("read_error", f"damaged: {what} claims a negative size")
    if not source.skip(num_bytes):
        raise BadInputError("truncated", f"cut short within {what}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
