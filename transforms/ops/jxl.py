"""The header of a JPEG XL, read here as the plug-in decodes all when it opens."""

from __future__ import annotations

from facemill.models.errors import BadInputError
from facemill.transforms.ops.integrity import iso_media_boxes

_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def read_jxl_size(data: bytes) -> tuple[int, int, int]:
    """Upright width, height and EXIF orientation, from SizeHeader and ImageMetadata (ISO/IEC 18181-1)."""
    bits = int.from_bytes(_codestream(data)[2:18], "little")

    def take(num_bits: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << num_bits) - 1), bits >> num_bits
        return value

    def take_side(is_multiple_of_8: int) -> int:
        return 8 * (1 + take(5)) if is_multiple_of_8 else 1 + take((9, 13, 18, 30)[take(2)])

    is_small = take(1)
    height = take_side(is_small)
    ratio = take(3)
    width = height * _RATIOS[ratio][0] // _RATIOS[ratio][1] if ratio else take_side(is_small)
    is_default = take(1)
    orientation = 1 + take(3) if not is_default and take(1) else 1
    if orientation >= 5:
        width, height = height, width
    return width, height, orientation


def _codestream(data: bytes) -> bytes:
    if data.startswith(b"\xff\x0a"):
        return data[:18]
    for name, content, _ in iso_media_boxes(data):
        if name in (b"jxlc", b"jxlp"):
            start = content + 4 * (name == b"jxlp")  # behind the number of the part
            return data[start : start + 18]
    raise BadInputError("decode_error", "JXL: no codestream")
