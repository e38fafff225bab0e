"""What a video file says of itself, before FFmpeg sees it: the kind of its container, and whether the file is whole.

FFmpeg goes by content, and would follow a playlist that calls itself `.mp4` to other files and hosts. And at the end of
a file that is cut off, it ends as if nothing were missing.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Literal

from facemill.transforms.ops.members import file_size, read_up_to

Container = Literal["mp4", "avi", "matroska"]

HEAD_BYTES = 16
_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid"))
_EBML = b"\x1a\x45\xdf\xa3"  # RFC 8794, 11.2.1
_SEGMENT = b"\x18\x53\x80\x67"  # RFC 9559, 5.1
_MAX_BOXES = 1_000_000


def sniff_container(head: bytes) -> Container | None:
    """The container that a file with these first bytes is, if it is one of those that are read."""
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "matroska" if head.startswith(_EBML) else None


def missing_bytes(file: BinaryIO, container: Container) -> int:
    """How many bytes the file is shorter than its container says, at least; 0 where that does not say."""
    end = {"mp4": _mp4_end, "avi": _avi_end, "matroska": _matroska_end}[container](file)
    return max(0, end - file_size(file))


def _mp4_end(file: BinaryIO) -> int:
    """Where the last of the boxes ends, which follow one another: ISO/IEC 14496-12, 4.2."""
    size, position, has_index = file_size(file), 0, False
    for _ in range(_MAX_BOXES):
        if position + 8 > size:
            break
        header = _read_at(file, position, HEAD_BYTES)
        length = int.from_bytes(header[:4], "big")
        has_index |= header[4:8] == b"moov"
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            length = size - position  # up to the end of the file
        if length < 8 or (position + length > size and header[4:8] not in _MP4_BOXES):  # something was appended
            break
        position += length
    return position if has_index else max(position, size + 1)  # the index is written last


def _avi_end(file: BinaryIO) -> int:
    """Where the last of the RIFF lists ends; long files have several, as the size has 32 bits (OpenDML)."""
    size, position = file_size(file), 0
    while (header := _read_at(file, position, 8))[:4] == b"RIFF" and len(header) == 8:
        length: int = struct.unpack("<I", header[4:])[0]
        if length == 0:  # is filled in when the recording ends
            return size + 1
        position += 8 + length
        if position >= size:
            break
        position += length % 2
    return position


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends; a live recording does not say."""
    head_end = _element_end(file, 0)
    if head_end is None or _read_at(file, head_end, 4) != _SEGMENT:
        return 0
    return _element_end(file, head_end) or 0


def _element_end(file: BinaryIO, position: int) -> int | None:
    """Where the EBML element at `position`, which has an id of four bytes, ends; None where its size is not known."""
    encoded = _read_at(file, position + 4, 8)
    if not encoded or not encoded[0]:
        return None
    num_bytes = 9 - encoded[0].bit_length()  # RFC 8794, 4
    bits = 7 * num_bytes
    length = int.from_bytes(encoded[:num_bytes], "big") & ((1 << bits) - 1)
    return None if length == (1 << bits) - 1 else position + 4 + num_bytes + length


def _read_at(file: BinaryIO, position: int, num_bytes: int) -> bytes:
    file.seek(position)
    return read_up_to(file, num_bytes)
