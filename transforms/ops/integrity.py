"""Damage that the decoders let pass: files that are cut off, and pixels that are not those that were stored."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL import Image

from facemill.models.errors import BadInputError, FailureReason
from facemill.transforms.ops.signatures import sniff_format

# Pillow's plug-ins parse hostile bytes with plain Python and let escape whatever that raises, so this boundary names
# all that they were seen to raise; anything else is our own mistake and must surface.
PILLOW_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# libjpeg reads ahead; these are 64 set bits, which no Huffman code matches, so they end a scan without adding to it.
_JPEG_LOOKAHEAD = b"\xff\x00" * 8
_JPEG_MAX_SCANS = 100  # encoders write about 10; each costs a pass over all pixels and may take 10 bytes
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG_PICTURE_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT"))
_DDS_FOURCC = 0x4
_TIFF_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))  # of strips, of tiles
_CUT_MESSAGE = re.compile("truncated|only got|not enough|reached eof|buffer is not large enough", re.IGNORECASE)


def check_whole(data: bytes, format_name: str) -> bytes:
    """Make the checks that the decoders leave out; return the bytes to decode."""
    if format_name in ("JPEG", "MPO"):
        return _pad_jpeg(data)
    if format_name == "PNG":
        _check_png_checksums(data)
    is_cut = _IS_CUT_SILENTLY.get(format_name)
    if is_cut is not None and is_cut(data):
        raise BadInputError("truncated", f"{format_name}: the picture reaches beyond the end of the file")
    return data


class _JpegEnd(NamedTuple):
    """Where the first picture of a JPEG file ends."""

    position: int | None  # of its end marker; None when there is none
    num_scans: int
    needs_all_scans: bool  # progressive, or one scan per component: libjpeg wants the end marker before any pixel


def _find_jpeg_end(data: bytes) -> _JpegEnd:
    position, num_scans, num_components, needs_all_scans = 2, 0, 0, False
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        start, marker = match.start(), data[match.start() + 1]
        if marker == 0xD9:
            return _JpegEnd(start, num_scans, needs_all_scans)
        if marker == 0xDA:
            num_scans += 1
            needs_all_scans |= data[start + 4 : start + 5] != bytes((num_components,))
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            num_components = data[start + 9] if start + 9 < len(data) else 0
            needs_all_scans |= marker in _JPEG_PROGRESSIVE
        position = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
    return _JpegEnd(None, num_scans, needs_all_scans)


def _pad_jpeg(data: bytes) -> bytes:
    """Take the end marker off, so that libjpeg stops where the data does.

    At an end marker that comes too early libjpeg paints the rest grey and goes on; without one Pillow reports a
    truncated file. What follows the marker (further MPO frames, appended files) is cut off as well.
    """
    end = _find_jpeg_end(data)
    if not end.needs_all_scans:  # a file that lacks nothing but its end marker is whole
        return data[: end.position] + _JPEG_LOOKAHEAD
    if end.position is None:
        raise BadInputError("truncated", "JPEG: no end marker")
    if end.num_scans == 1:
        raise BadInputError("truncated", "JPEG: the end marker comes within the first of several scans")
    if end.num_scans > _JPEG_MAX_SCANS:
        raise BadInputError("decode_error", f"JPEG: {end.num_scans} scans are more than {_JPEG_MAX_SCANS}")
    return data


def failure_reason(error: BaseException, data: bytes) -> FailureReason:
    if isinstance(error, EOFError) or _CUT_MESSAGE.search(str(error)):
        return "truncated"
    is_cut = _IS_CUT.get(sniff_format(data) or "")
    return "truncated" if is_cut is not None and is_cut(data) else "decode_error"


def _is_cut_jpeg(data: bytes) -> bool:
    return _find_jpeg_end(data).position is None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield the name, name and content, and checksum of each complete chunk."""
    position, view = 8, memoryview(data)
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        if end + 4 > len(data):
            return
        yield data[position + 4 : position + 8], view[position + 4 : end], int.from_bytes(view[end : end + 4], "big")
        position = end + 4


def _check_png_checksums(data: bytes) -> None:
    """Refuse damaged pixels, which Pillow shows as they come."""
    for name, content, checksum in _png_chunks(data):
        if name in _PNG_PICTURE_CHUNKS and zlib.crc32(content) != checksum:
            raise BadInputError("decode_error", f"PNG: wrong checksum of a chunk {name.decode()}")


def _is_cut_png(data: bytes) -> bool:
    return not any(name == b"IEND" for name, _, _ in _png_chunks(data))


def _is_cut_gif(data: bytes) -> bool:
    return not data.rstrip(b"\x00").endswith(b";")


def is_cut_riff(data: bytes) -> bool:
    return int.from_bytes(data[4:8], "little") + 8 > len(data)


def iso_media_boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start of the content and end of each box at the top level."""
    position = 0
    while position + 8 <= len(data):
        size, content = int.from_bytes(data[position : position + 4], "big"), position + 8
        if size == 1:
            size, content = int.from_bytes(data[position + 8 : position + 16], "big"), position + 16
        if size < content - position:  # 0: up to the end of the file
            size = len(data) - position
        yield data[position + 4 : position + 8], content, position + size
        position += size


def _is_cut_iso_media(data: bytes) -> bool:
    return any(end > len(data) for _, _, end in iso_media_boxes(data))


def _is_cut_tiff(data: bytes) -> bool:
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            image = Image.open(io.BytesIO(data), formats=["TIFF"])
        if any(_CUT_MESSAGE.search(str(note.message)) for note in notes):  # the directory itself is cut
            return True
        with image:
            tags = getattr(image, "tag_v2", {})
            for offset_tag, count_tag in _TIFF_OFFSETS_AND_COUNTS:
                extents = zip(tags.get(offset_tag, ()), tags.get(count_tag, ()), strict=False)
                if any(offset + count > len(data) for offset, count in extents):
                    return True
            return False
    except (*PILLOW_ERRORS, Image.DecompressionBombError):
        order = "<I" if data[:1] == b"I" else ">I"
        return len(data) < 8 or struct.unpack(order, data[4:8])[0] + 2 > len(data)


def _is_cut_dds(data: bytes) -> bool:
    """Whether pixels without compression are missing (DDS_HEADER, DDS_PIXELFORMAT of Microsoft's DDS guide)."""
    if len(data) < 128:
        return True
    height, width = struct.unpack_from("<II", data, 12)
    (flags,), (bits_per_pixel,) = struct.unpack_from("<I", data, 80), struct.unpack_from("<I", data, 88)
    return not flags & _DDS_FOURCC and 128 + height * width * bits_per_pixel // 8 > len(data)


# Decoders that fill missing parts: libheif its tiles, Pillow before 12.3 the end of a DDS.
_IS_CUT_SILENTLY: dict[str, Callable[[bytes], bool]] = {"HEIF": _is_cut_iso_media, "DDS": _is_cut_dds}
_IS_CUT: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _is_cut_jpeg,
    "PNG": _is_cut_png,
    "GIF": _is_cut_gif,
    "WEBP": is_cut_riff,
    "AVIF": _is_cut_iso_media,
    "HEIC": _is_cut_iso_media,
    "JPEG2000": _is_cut_iso_media,
    "TIFF": _is_cut_tiff,
}
