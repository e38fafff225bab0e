"""RecordIO files of MXNet and the image records in them, without MXNet.

A record is a magic number, a length with a flag in its upper three bits, and the data, padded to four bytes, all
little-endian: dmlc-core/include/dmlc/recordio.h. Where the data hold the magic number at a multiple of four bytes, it
is left out and the record continues in a further part. So the magic number at such a byte always begins a part: a
reader can set in anywhere, and damage costs the record that it hit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import ReadLimits, StoredRecord, check_member_size, file_size, read_up_to
from facemill.transforms.ops.records import Failure

_WORD = struct.Struct("<I")
_MAGIC_NUMBER = 0xCED7230A
_MAGIC = _WORD.pack(_MAGIC_NUMBER)
_HEADER_BYTES = 2 * _WORD.size
_LENGTH_BITS = 29
_MAX_LENGTH = (1 << _LENGTH_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_CHUNK_BYTES = 64 * 1024
_IMAGE_HEADER = struct.Struct("<IfQQ")  # IRHeader of mxnet/recordio.py


class ImageHeader(NamedTuple):
    """What stands before the picture in an image record."""

    labels: tuple[float, ...]
    id: int
    id2: int


def frame_record(data: bytes) -> bytes:
    """The record that holds `data`, as it stands in a RecordIO file.

    Raises:
        ValueError: The format has no length for so many bytes.
    """
    if len(data) > _MAX_LENGTH:
        raise ValueError(f"a record holds at most {_MAX_LENGTH} bytes, got {len(data)}")
    cuts = list(_magic_offsets(data))
    if not cuts:
        return _part(_WHOLE, data)
    starts = [0, *(cut + _WORD.size for cut in cuts)]
    flags = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST]
    bounds = zip(flags, starts, [*cuts, len(data)], strict=True)
    return b"".join(_part(flag, data[start:stop]) for flag, start, stop in bounds)


def iterate_records(
    file: BinaryIO, limits: ReadLimits, *, start: int = 0, stop: int | None = None
) -> Iterator[StoredRecord]:
    """The records that begin in [start, stop) bytes of a seekable file; any bounds will do.

    A damaged record is one with a failure, and so are bytes between two records that are none.

    Raises:
        BadInputError: The file is none of RecordIO, or its last record is cut short.
    """
    size = file_size(file)
    if size == 0:
        raise BadInputError("empty", "the file has no bytes")
    begin = _find_record(file, start + -start % 4, stop if start else None)
    if start == 0 and begin is None:
        raise BadInputError("read_error", "not a RecordIO file, or damaged: no record in it")
    if start == 0 and begin:
        yield _no_record(0)
    while begin is not None and (stop is None or begin < stop):
        record, end = _read_record(file, begin, limits)
        yield record
        begin = _find_record(file, end)
        if record.failure is None and end < (size if begin is None else begin):
            yield _no_record(end)


def pack_header(label: float | Sequence[float], *, id: int, id2: int = 0) -> bytes:
    """What stands before the picture in an image record, with one label or several."""
    if isinstance(label, Sequence):
        return _IMAGE_HEADER.pack(len(label), 0.0, id, id2) + struct.pack(f"<{len(label)}f", *label)
    return _IMAGE_HEADER.pack(0, label, id, id2)


def unpack_header(data: bytes) -> tuple[ImageHeader, bytes]:
    """The header of an image record, and the picture behind it.

    Raises:
        BadInputError: `data` end within the header.
    """
    if len(data) < _IMAGE_HEADER.size:
        raise _no_image_record()
    num_labels, label, image_id, id2 = _IMAGE_HEADER.unpack_from(data)
    end = _IMAGE_HEADER.size + 4 * num_labels
    if len(data) < end:
        raise _no_image_record()
    labels = struct.unpack(f"<{num_labels}f", data[_IMAGE_HEADER.size : end]) if num_labels else (label,)
    return ImageHeader(labels, image_id, id2), data[end:]


def _no_image_record() -> BadInputError:
    return BadInputError("read_error", "a record without the header that MXNet's image records have, or damaged")


def _no_record(offset: int) -> StoredRecord:
    return StoredRecord(offset, None, Failure("read_error", f"damaged: no record at byte {offset}"))


def _part(flag: int, data: bytes) -> bytes:
    return b"".join((_MAGIC, _WORD.pack(flag << _LENGTH_BITS | len(data)), data, bytes(-len(data) % 4)))


def _read_record(file: BinaryIO, offset: int, limits: ReadLimits) -> tuple[StoredRecord, int]:
    """The record at `offset`, and the byte from which on to look for the next."""
    parts: list[bytes] = []
    num_bytes = 0
    position = offset
    while True:
        file.seek(position)
        flag, length = _parse_header(read_up_to(file, _HEADER_BYTES), offset)
        if flag not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            return StoredRecord(
                offset, None, Failure("read_error", "damaged: a part of the record is missing")
            ), position
        position += _HEADER_BYTES
        num_bytes += length + (_WORD.size if parts else 0)
        if failure := check_member_size(num_bytes, limits):
            return StoredRecord(offset, None, failure), position
        data = read_up_to(file, length + -length % 4)
        inner = next(_magic_offsets(data), None)
        if inner is not None:
            return StoredRecord(
                offset, None, Failure("read_error", "damaged: reaches into the next record")
            ), position + inner
        if len(data) < length:
            raise _cut_short(offset)
        parts.append(data[:length])
        position += length + -length % 4
        if flag in (_WHOLE, _LAST):
            return StoredRecord(offset, _MAGIC.join(parts)), position


def _parse_header(header: bytes, offset: int) -> tuple[int, int]:
    """Flag and length of the part with this header; the flag is -1 where it is none."""
    if len(header) < _HEADER_BYTES:
        raise _cut_short(offset)
    if not header.startswith(_MAGIC):
        return -1, 0
    word: int = _WORD.unpack_from(header, _WORD.size)[0]
    return word >> _LENGTH_BITS, word & _MAX_LENGTH


def _cut_short(offset: int) -> BadInputError:
    return BadInputError("truncated", f"cut short within the record at byte {offset}")


def _find_record(file: BinaryIO, start: int, stop: int | None = None) -> int | None:
    """Where from `start`, a multiple of four, on a record begins, if one does before `stop`.

    A header that is cut off by the end of the file counts as one.
    """
    num_bytes = _HEADER_BYTES
    while stop is None or start < stop:
        file.seek(start)
        window = read_up_to(file, num_bytes)
        words = np.frombuffer(window, "<u4", len(window) // _WORD.size)
        is_header = words[:-1] == _MAGIC_NUMBER
        is_header &= words[1:] >> _LENGTH_BITS <= _FIRST
        if is_header.any():
            return start + int(is_header.argmax()) * _WORD.size
        if len(window) < num_bytes:
            rest = len(words) * _WORD.size - _WORD.size
            return start + rest if window.startswith(_MAGIC, max(0, rest)) else None
        start += num_bytes - _WORD.size
        num_bytes = _CHUNK_BYTES
    return None


def _magic_offsets(data: bytes) -> Iterator[int]:
    """Where the magic number stands at a multiple of four bytes."""
    at = data.find(_MAGIC)
    while at >= 0:
        if at % 4 == 0:
            yield at
        at = data.find(_MAGIC, at + 1)
