"""The headers of a tar archive: what its members are called and where their data lies.

`tarfile.TarFile` is not used: it reads extended headers of any claimed size into memory, recurses along chains of them,
and takes a damaged header for the end of the archive. Its header parser, `TarInfo.frombuf`, is.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from facemill.models.errors import BadInputError
from facemill.transforms.ops.sources import ByteSource

_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENDED_HEADER_BYTES = 2**20
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
_PAX_KEYS = (b"path", b"size", b"GNU.sparse.name", b"GNU.sparse.major", b"GNU.sparse.size")
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class TarEntry:
    """What the headers say of one member."""

    name: str
    offset: int  # of its first header
    size: int  # stored bytes
    problem: str | None  # what it is when it is no regular file
    is_folder: bool


def tar_entries(source: ByteSource, stop: int | None) -> Iterator[TarEntry]:
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


def _headers(source: ByteSource, stop: int | None) -> Iterator[tuple[int, bytes, tarfile.TarInfo]]:
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


def _extended_header(source: ByteSource, info: tarfile.TarInfo) -> dict[str, str]:
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
    """The records that matter here of all `LENGTH KEY=VALUE\\n`, where LENGTH counts the whole record.

    POSIX.1-2008, pax, "pax Extended Header".
    """
    records = {}
    position = 0
    while position < len(payload) and payload[position] != 0:
        match = _PAX_RECORD.match(payload, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(payload):
            raise BadInputError("read_error", "damaged: a malformed PAX header")
        if match[2] in _PAX_KEYS:
            records[match[2].decode()] = _text(payload[match.end() : end - 1])
        position = end
    return records


def _skip_sparse_map(source: ByteSource, block: bytes) -> None:
    """Moves past the blocks that continue a GNU sparse header; bytes 482 and 504 say whether one follows."""
    continued = block[482]
    while continued:
        block = source.read(_BLOCK)
        if len(block) < _BLOCK:
            raise BadInputError("truncated", "cut short within the map of a sparse file")
        continued = block[504]


def _entry(info: tarfile.TarInfo, overrides: dict[str, str], offset: int) -> TarEntry:
    size = _member_size(info, overrides)
    is_sparse = any(key.startswith("GNU.sparse.") for key in overrides)
    return TarEntry(
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


def _skip(source: ByteSource, num_bytes: int, what: str) -> None:
    if num_bytes < 0:
        raise BadInputError("read_error", f"damaged: {what} claims a negative size")
    if not source.skip(num_bytes):
        raise BadInputError("truncated", f"cut short within {what}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
