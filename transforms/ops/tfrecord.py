"""TFRecord files, without TensorFlow.

A record is its length (uint64), a checksum of the length, the data, and a checksum of the data, all little-endian:
tensorflow/core/lib/io/record_writer.h. What the data mostly are is in `tf_example`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import ReadLimits, StoredRecord, check_member_size, file_size
from facemill.transforms.ops.records import Failure
from facemill.transforms.ops.sources import ByteSource, GzipSource, PlainSource, is_gzipped

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CRC.size
_CRC_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h
_CHUNK_BYTES = 256 * 1024
_LENGTH_BYTES_USED = 5  # of a record below a terabyte


class _Frame(NamedTuple):
    offset: int  # of the record's header
    length: int | None  # bytes of data; None where the header is damaged


def frame_record(data: bytes) -> bytes:
    """The record that holds `data`, as it stands in a TFRecord file."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def iterate_records(
    file: BinaryIO, limits: ReadLimits, *, start: int = 0, stop: int | None = None
) -> Iterator[StoredRecord]:
    """The records that begin in [start, stop) bytes of a seekable file; a gzipped one is read whole.

    A damaged record is one with a failure; behind a damaged length, the next length that its checksum confirms is
    looked for.

    Raises:
        BadInputError: The file is none of TFRecords, or is damaged or cut off from some byte on.
    """
    if file_size(file) == 0:
        raise BadInputError("empty", "the file has no bytes")
    source = GzipSource(file, limits) if _is_packed(file) else PlainSource(file, start)
    for frame in _frames(source, None if isinstance(source, GzipSource) else stop):
        yield _record(source, frame, limits)


def record_offsets(file: BinaryIO) -> Iterator[int]:
    """The bytes at which the records of a file that is not gzipped begin, by one pass over their headers.

    Raises:
        BadInputError: As `iterate_records` does, at the same place.
    """
    for frame in _frames(PlainSource(file, 0), None):
        yield frame.offset


def _is_packed(file: BinaryIO) -> bool:
    """Whether the file is gzipped; a length may begin with the same two bytes."""
    return is_gzipped(file) and _length(PlainSource(file, 0).read(_HEADER_BYTES)) is None


def _frames(source: ByteSource, stop: int | None) -> Iterator[_Frame]:
    """Every record; the source stands at its data, and what the caller leaves unread is skipped."""
    while stop is None or source.position < stop:
        offset = source.position
        header = source.read(_HEADER_BYTES)
        if not header:
            return
        length = _length(header)
        if length is not None:
            end = source.position + length + _CRC.size
            yield _Frame(offset, length)
            if not source.skip(end - source.position):
                raise _cut_short(offset)
        elif offset > 0 and len(header) < _HEADER_BYTES:
            raise _cut_short(offset)
        elif isinstance(source, PlainSource) and (following := _find_header(source, offset + 1)) is not None:
            yield _Frame(offset, None)
            source.seek(following)
        else:
            what = "not a TFRecord file, or damaged" if offset == 0 else "damaged"
            raise BadInputError("read_error", f"{what}: no record at byte {offset} nor after it")


def _find_header(source: PlainSource, start: int) -> int | None:
    """Where from `start` on the next length, of less than a terabyte, and its checksum stand."""
    source.seek(start)
    window = source.read(_CHUNK_BYTES)
    while len(window) >= _HEADER_BYTES:
        found = _header_offsets(np.frombuffer(window, np.uint8))
        if found.size:
            return start + int(found[0])
        start += len(window) - (_HEADER_BYTES - 1)
        window = window[1 - _HEADER_BYTES :] + source.read(_CHUNK_BYTES)
    return None


def _header_offsets(data: np.ndarray) -> np.ndarray:
    """Where in (N,) bytes a header stands: all at once, as a hostile file may look like headers everywhere."""
    places = len(data) - (_HEADER_BYTES - 1)
    is_small = np.all([data[i : i + places] == 0 for i in range(_LENGTH_BYTES_USED, _LENGTH.size)], axis=0)
    has_crc = np.any([data[i : i + places] for i in range(_LENGTH.size, _HEADER_BYTES)], axis=0)
    at = np.flatnonzero(is_small & has_crc)
    crc_of_zeros, crcs_of_bytes = _crc_parts()
    crcs = [crcs_of_bytes[i][data[at + i]] for i in range(_LENGTH_BYTES_USED)]
    crc = np.bitwise_xor.reduce(crcs, axis=0) ^ crc_of_zeros
    masked = (crc >> 15 | crc << 17) + np.uint32(_CRC_MASK_DELTA)
    stored = sum(data[at + _LENGTH.size + i].astype(np.uint32) << 8 * i for i in range(_CRC.size))
    return at[masked == stored]


@cache
def _crc_parts() -> tuple[np.uint32, np.ndarray]:
    """The checksum of a length of 0, and (5, 256) what each value of each byte changes in it, by exclusive or."""
    zeros = bytes(_LENGTH.size)
    crc_of_zeros = google_crc32c.value(zeros)
    crcs = [
        [google_crc32c.value(zeros[:i] + bytes([value]) + zeros[i + 1 :]) for value in range(256)]
        for i in range(_LENGTH_BYTES_USED)
    ]
    return np.uint32(crc_of_zeros), np.array(crcs, np.uint32) ^ np.uint32(crc_of_zeros)


def _record(source: ByteSource, frame: _Frame, limits: ReadLimits) -> StoredRecord:
    if frame.length is None:
        damaged = Failure("read_error", f"damaged: no record at byte {frame.offset}; the next one is read")
        return StoredRecord(frame.offset, None, damaged)
    if failure := check_member_size(frame.length, limits):
        return StoredRecord(frame.offset, None, failure)
    block = source.read(frame.length + _CRC.size)
    if len(block) < frame.length + _CRC.size:
        raise _cut_short(frame.offset)
    data = block[: frame.length]
    if block[frame.length :] != _masked_crc(data):
        return StoredRecord(frame.offset, None, Failure("read_error", "damaged: the checksum does not match"))
    return StoredRecord(frame.offset, data)


def _cut_short(offset: int) -> BadInputError:
    return BadInputError("truncated", f"cut short within the record at byte {offset}")


def _length(header: bytes) -> int | None:
    """The length that a record's header gives, None if its checksum does not confirm it."""
    if len(header) < _HEADER_BYTES or header[_LENGTH.size :] != _masked_crc(header[: _LENGTH.size]):
        return None
    length: int = _LENGTH.unpack_from(header)[0]
    return length


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CRC.pack((((crc >> 15) | (crc << 17)) + _CRC_MASK_DELTA) & 0xFFFFFFFF)
