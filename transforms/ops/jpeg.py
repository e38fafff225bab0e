"""Plain JPEG by libjpeg-turbo itself, without Pillow: the same pixels in half the time, or at a part of the size.

Plain is what most files are: 8 bits, grey or three colours, baseline or progressive, and nothing odd before the pixels.
Whatever is not plain, or gives libjpeg so much as a warning, is left to Pillow, so that the verdict on it is Pillow's
and the checks' of `integrity`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg  # type: ignore[import-untyped]

from facemill.transforms.ops.integrity import check_whole
from facemill.transforms.ops.signatures import sniff_format
from facemill.transforms.ops.turning import turn_upright

_MAX_PIXELS = 89_478_485  # beyond it Pillow has something to say
_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE = 0xC0, 0xC1, 0xC2
_DHT, _SOS, _DQT, _DRI, _COM = 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP1, _APP2, _APP13, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF
_EXIF, _MPF, _ICC, _PHOTOSHOP, _ADOBE = b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Adobe"
_MIN_JFIF_BYTES, _MIN_ICC_BYTES, _MIN_ADOBE_BYTES = 14, 14, 12
_ORIENTATION_TAG, _SHORT = 0x0112, 3
# TIFF 6.0, section 2, and IFD of supplement 1
_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


class PlainJpeg(NamedTuple):
    """The header of a plain JPEG; width and height in px as stored."""

    width: int
    height: int
    orientation: int | None
    needs_all_scans: bool  # progressive, or one scan per component


def read_plain_jpeg(data: bytes) -> PlainJpeg | None:
    """Read the header of a plain JPEG; None for any other file, and for one that is damaged before its pixels."""
    if sniff_format(data) != "JPEG":
        return None
    try:
        return _walk(data)
    except (IndexError, _NotPlainError):
        return None


def decode_plain_jpeg(data: bytes, plain: PlainJpeg, *, reduction: int = 1) -> np.ndarray | None:
    """Decode to upright (H, W, 3) uint8 RGB; `plain` is what `read_plain_jpeg` gave for `data`.

    A `reduction` of 2, 4 or 8 gives 1 / reduction of the sides, rounded up, by the inverse DCT itself: pixel i covers
    the pixels reduction * i to reduction * (i + 1) of the stored picture. None where libjpeg is not content, which
    Pillow is to judge. Raises BadInputError where scans are missing.
    """
    if plain.needs_all_scans:
        check_whole(data, "JPEG")
    stored_wh = reduced_size(plain.width, reduction), reduced_size(plain.height, reduction)
    smallest = {"min_width": stored_wh[0], "min_height": stored_wh[1]} if reduction > 1 else {}
    try:
        stored = simplejpeg.decode_jpeg(data, "RGB", **smallest)
    except ValueError:  # damage of any kind, warnings included
        return None
    if stored.shape[1::-1] != stored_wh:
        return None
    return turn_upright(stored, plain.orientation or 1)


def reduced_size(size_px: int, reduction: int) -> int:
    """Pixels of a side that was reduced."""
    return -(-size_px // reduction)


class _NotPlainError(Exception):
    """Something that Pillow, or libjpeg, may take in another way than we would."""


def _require(is_plain: bool) -> None:
    if not is_plain:
        raise _NotPlainError


def _walk(data: bytes) -> PlainJpeg:
    """Go from marker to marker up to the first scan."""
    position = 2
    frame: tuple[int, int, int, int] | None = None  # width, height, number of components, marker
    orientation: int | None = None
    has_exif = has_xmp_orientation = False
    while True:
        marker = data[position + 1]
        length = data[position + 2] << 8 | data[position + 3]
        content, end = position + 4, position + 2 + length
        _require(data[position] == 0xFF and length >= 2 and end <= len(data))
        if marker == _SOS:
            _require(frame is not None and length == 6 + 2 * data[content])
            assert frame is not None
            # The XMP counts where EXIF has no orientation.
            _require(orientation is not None or not has_xmp_orientation)
            width, height, num_components, frame_marker = frame
            is_one_scan = frame_marker != _SOF_PROGRESSIVE and data[content] == num_components
            return PlainJpeg(width, height, orientation, not is_one_scan)
        if marker in (_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE):
            _require(frame is None)
            frame = (*_read_frame(data, content, length), marker)
        elif marker == _DQT:
            _check_tables(data, content, end)
        elif marker == _APP1:
            if data.startswith(_EXIF, content):
                _require(not has_exif)
                has_exif, orientation = True, _read_orientation(data[content + len(_EXIF) : end])
            else:
                has_xmp_orientation |= data.find(b"Orientation", content, end) >= 0
        elif _APP0 <= marker <= _APP15:
            _check_app(data, marker, content, length - 2)
        else:
            _require(marker in (_DHT, _DRI, _COM))
        position = end


def _read_frame(data: bytes, content: int, length: int) -> tuple[int, int, int]:
    """Width, height and number of components of a frame of 8 bits, grey or of three colours."""
    height, width = data[content + 1] << 8 | data[content + 2], data[content + 3] << 8 | data[content + 4]
    num_components = data[content + 5]
    _require(data[content] == 8 and num_components in (1, 3) and length == 8 + 3 * num_components)
    _require(0 < width * height <= _MAX_PIXELS)
    return width, height, num_components


def _check_tables(data: bytes, position: int, end: int) -> None:
    while position < end:
        position += 1 + (128 if data[position] >> 4 else 64)
    _require(position == end)


def _check_app(data: bytes, marker: int, content: int, num_bytes: int) -> None:
    """Whether an application's segment is one that Pillow reads without complaint, and that changes nothing."""
    if marker == _APP0:
        _require(not data.startswith(b"JFIF", content) or num_bytes >= _MIN_JFIF_BYTES)
    elif marker == _APP2:
        _require(not data.startswith((_MPF, b"FPXR\0"), content))
        _require(not data.startswith(_ICC, content) or num_bytes >= _MIN_ICC_BYTES)
    elif marker == _APP13:
        _require(not data.startswith(_PHOTOSHOP, content))
    elif marker == _APP14:
        _require(not data.startswith(_ADOBE, content) or num_bytes >= _MIN_ADOBE_BYTES)


def _read_orientation(tiff: bytes) -> int | None:
    """The orientation in the first directory of EXIF 2.32, 1 to 8, or None without one."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    _require(order is not None)

    def number(position: int, num_bytes: int) -> int:
        _require(position + num_bytes <= len(tiff))
        return int.from_bytes(tiff[position : position + num_bytes], order)  # type: ignore[arg-type]

    first = number(4, 4)
    orientation = None
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        tag, kind, count = number(entry, 2), number(entry + 2, 2), number(entry + 4, 4)
        num_bytes = _TIFF_TYPE_BYTES.get(kind, 0) * count
        # Pillow stops at the first entry whose value lies beyond the end.
        _require(num_bytes > 0 and (num_bytes <= 4 or number(entry + 8, 4) + num_bytes <= len(tiff)))
        if tag == _ORIENTATION_TAG:
            _require(orientation is None and (kind, count) == (_SHORT, 1))
            orientation = number(entry + 8, 2)
            _require(1 <= orientation <= 8)
    return orientation
