"""From the bytes of a picture file to upright RGB pixels, by content and never by name.

Decoded: JPEG (with MPO), PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, the PPM family, PSD (the flattened picture), SGI,
TGA and DDS; the first frame or page of those that hold several; HEIC and JPEG XL with their optional plug-ins.
Refused as `unsupported_format`: icon files (their parts may be larger than they declare), PCX (a cut one passes for
grey), vector and camera raw files (whose only readable picture is a thumbnail), floating-point and 32-bit samples (they
have no agreed white), and whatever else Pillow could open.

Transparent pixels are laid over white. Deeper samples keep their 8 most significant bits. Colour profiles are ignored.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from facemill.models.errors import BadInputError
from facemill.transforms.ops.integrity import check_whole, is_cut_riff
from facemill.transforms.ops.jpeg import PlainJpeg, decode_plain_jpeg, read_plain_jpeg
from facemill.transforms.ops.jxl import read_jxl_size
from facemill.transforms.ops.pillow_pixels import (
    deep_samples,
    load_plug_in,
    open_picture,
    pending_orientation,
    quiet_pillow,
    read_orientation,
    rgb_strips,
)
from facemill.transforms.ops.signatures import sniff_format
from facemill.transforms.ops.turning import STRIP_PIXELS, assemble

_WEBP_ALPHA, _WEBP_ANIMATION, _WEBP_LOSSLESS_ALPHA = 0x10, 0x02, 0x10


class ImageHeader(NamedTuple):
    """What a picture says about itself before it is decoded; width and height in px, EXIF orientation applied."""

    format: str
    width: int
    height: int
    exif_orientation: int | None


class Decoded(NamedTuple):
    """Upright pixels, (H, W, 3) uint8 RGB, of 1 / `reduction` of the original's sides."""

    image: np.ndarray
    reduction: int


def read_header(data: bytes) -> ImageHeader:
    """Read format, upright size and EXIF orientation without decoding a pixel.

    Raises BadInputError: empty, unsupported_format, truncated, decode_error; too_large beyond the 178,956,970 px that
    Pillow itself refuses to open.
    """
    plain = read_plain_jpeg(data)
    if plain is not None:
        return _describe_plain(plain)
    if sniff_format(data) == "JXL":
        load_plug_in("JXL")
        return ImageHeader("JXL", *read_jxl_size(data))
    with quiet_pillow(data), open_picture(data) as image:
        orientation = read_orientation(image)
        width, height = image.size
        # Pillow turns TIFF itself while loading, and announces the turned size before.
        if (orientation or 1) >= 5 and image.format != "TIFF":
            width, height = height, width
        return ImageHeader(image.format or "unknown", width, height, orientation)


def decode_pixels(data: bytes, header: ImageHeader, *, max_pixels: int, min_side_px: int) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, upright and contiguous; `header` is what `read_header` gave for `data`.

    Raises BadInputError: too_large and too_small before anything is decoded; truncated rather than a picture that is
    partly grey, unsupported_format and decode_error.
    """
    check_limits(header, max_pixels=max_pixels, min_side_px=min_side_px)
    return decode_at(data, header, reduction=1).image


def decode_image(data: bytes, *, max_pixels: int, min_side_px: int) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, upright; `read_header` and `decode_pixels` in one."""
    return decode_pixels(data, read_header(data), max_pixels=max_pixels, min_side_px=min_side_px)


def decode_at(data: bytes, header: ImageHeader, *, reduction: int) -> Decoded:
    """Decode at 1 / `reduction` (1, 2, 4 or 8) of the sides where the file is a plain JPEG, or else in full.

    The sides are rounded up. Makes no check of the limits; raises BadInputError as `decode_pixels`.
    """
    plain = read_plain_jpeg(data)
    if plain is not None and _describe_plain(plain) == header:
        image = decode_plain_jpeg(data, plain, reduction=reduction)
        if image is not None:
            return Decoded(image, reduction)
    return Decoded(_decode_plain_webp(data, header) if _is_plain_webp(data) else _decode_by_pillow(data, header), 1)


def check_limits(header: ImageHeader, *, max_pixels: int, min_side_px: int) -> None:
    """Raises BadInputError, too_large or too_small, for a picture beyond the limits."""
    if header.width * header.height > max_pixels:
        raise BadInputError("too_large", f"{header.width} x {header.height} px is more than max_pixels = {max_pixels}")
    if min(header.width, header.height) < min_side_px:
        raise BadInputError("too_small", f"{header.width} x {header.height} px is below min_side_px = {min_side_px}")


def _describe_plain(plain: PlainJpeg) -> ImageHeader:
    is_turned = (plain.orientation or 1) >= 5
    width, height = (plain.height, plain.width) if is_turned else (plain.width, plain.height)
    return ImageHeader("JPEG", width, height, plain.orientation)


def _decode_by_pillow(data: bytes, header: ImageHeader) -> np.ndarray:
    with quiet_pillow(data), open_picture(check_whole(data, header.format)) as image:
        sample_bits, is_inverted = deep_samples(image)
        image.load()
        orientation = pending_orientation(image)
        _check_announced(header, *image.size, orientation)
        strips = rgb_strips(image, sample_bits=sample_bits, is_inverted=is_inverted)
        return assemble(strips, (header.width, header.height), orientation)


def _check_announced(header: ImageHeader, stored_width: int, stored_height: int, orientation: int) -> None:
    turned = (stored_height, stored_width) if orientation >= 5 else (stored_width, stored_height)
    if turned != (header.width, header.height):
        announced = f"{header.width} x {header.height}"
        raise BadInputError("decode_error", f"decoded to {turned[0]} x {turned[1]} px, announced {announced}")


def _is_plain_webp(data: bytes) -> bool:
    """Whether a WebP is a still picture without transparency (RFC 9649, section 2)."""
    if sniff_format(data) != "WEBP" or len(data) < 25:
        return False
    kind = data[12:16]
    if kind == b"VP8X":
        return not data[20] & (_WEBP_ALPHA | _WEBP_ANIMATION)
    return kind == b"VP8 " or (kind == b"VP8L" and not data[24] & _WEBP_LOSSLESS_ALPHA)


def _decode_plain_webp(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decode by OpenCV: the same libwebp, without the canvases of an animation that take Pillow to 5 times the size."""
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise BadInputError("truncated" if is_cut_riff(data) else "decode_error", "WEBP: the pixels cannot be decoded")
    orientation = header.exif_orientation or 1
    _check_announced(header, bgr.shape[1], bgr.shape[0], orientation)
    step = max(1, STRIP_PIXELS // bgr.shape[1])
    strips = (cv2.cvtColor(bgr[top : top + step], cv2.COLOR_BGR2RGB) for top in range(0, len(bgr), step))
    return assemble(strips, (header.width, header.height), orientation)
