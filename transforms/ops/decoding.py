"""From the bytes of a picture file to upright RGB pixels, by content and never by name.

Decoded: JPEG (with MPO), PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, the PPM family, PSD (the flattened picture), SGI,
TGA and DDS; the first frame or page of those that hold several; HEIC and JPEG XL with their optional plug-ins.
Refused as `unsupported_format`: icon files (their parts may be larger than they declare), PCX (a cut one passes for
grey), vector and camera raw files (whose only readable picture is a thumbnail), floating-point and 32-bit samples (they
have no agreed white), and whatever else Pillow could open.

Transparent pixels are laid over white. Deeper samples keep their 8 most significant bits. Colour profiles are ignored.
"""

from __future__ import annotations

import importlib
import io
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image

from facemill.models.errors import BadInputError
from facemill.transforms.ops.integrity import PILLOW_ERRORS, check_whole, failure_reason, is_cut_riff, iso_media_boxes
from facemill.transforms.ops.signatures import sniff_format

_DECODED = frozenset(
    ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PSD", "DDS", "SGI", "BMP", "PPM", "TGA")
)


_ARCHIVES = frozenset(("ZIP", "GZIP", "BZIP2", "XZ", "ZSTD", "7Z", "RAR"))


class _PlugIn(NamedTuple):
    """An optional package that teaches Pillow one more format."""

    module: str
    extra: str
    pillow_format: str


_PLUG_INS = {"HEIC": _PlugIn("pillow_heif", "heif", "HEIF"), "JXL": _PlugIn("pillow_jxl", "jxl", "JXL")}

_TIFF_NEW_SUBFILE_TYPE = 254
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_WEBP_ALPHA, _WEBP_ANIMATION, _WEBP_LOSSLESS_ALPHA = 0x10, 0x02, 0x10
_JXL_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_STRIP_PIXELS = 1 << 17


_quiet_lock = threading.Lock()


class _Turn(NamedTuple):
    """How stored rows become upright: transposed, then flipped as `cv2.flip` counts, laid down from which end."""

    transposes: bool
    flip: int | None
    fills_backwards: bool


# EXIF 2.32, tag 0x0112
_TURNS = {
    1: _Turn(False, None, False),
    2: _Turn(False, 1, False),
    3: _Turn(False, -1, True),
    4: _Turn(False, 0, True),
    5: _Turn(True, None, False),
    6: _Turn(True, 1, True),
    7: _Turn(True, -1, True),
    8: _Turn(True, 0, False),
}


class ImageHeader(NamedTuple):
    """What a picture says about itself before it is decoded; width and height in px, EXIF orientation applied."""

    format: str
    width: int
    height: int
    exif_orientation: int | None


def read_header(data: bytes) -> ImageHeader:
    """Read format, upright size and EXIF orientation without decoding a pixel.

    Raises BadInputError: empty, unsupported_format, truncated, decode_error; too_large beyond the 178,956,970 px that
    Pillow itself refuses to open.
    """
    if sniff_format(data) == "JXL":
        return _read_jxl_header(data)
    with _pillow(data), _open(data) as image:
        orientation = _orientation(image)
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
    _check_limits(header, max_pixels=max_pixels, min_side_px=min_side_px)
    if _is_plain_webp(data):
        return _decode_plain_webp(data, header)
    with _pillow(data), _open(check_whole(data, header.format)) as image:
        sample_bits, is_inverted = _deep_samples(image)
        image.load()
        orientation = _pending_orientation(image)
        _check_announced(header, *image.size, orientation)
        return _assemble(_rgb_strips(image, sample_bits=sample_bits, is_inverted=is_inverted), header, orientation)


def decode_image(data: bytes, *, max_pixels: int, min_side_px: int) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, upright; `read_header` and `decode_pixels` in one."""
    return decode_pixels(data, read_header(data), max_pixels=max_pixels, min_side_px=min_side_px)


def _check_limits(header: ImageHeader, *, max_pixels: int, min_side_px: int) -> None:
    if header.width * header.height > max_pixels:
        raise BadInputError("too_large", f"{header.width} x {header.height} px is more than max_pixels = {max_pixels}")
    if min(header.width, header.height) < min_side_px:
        raise BadInputError("too_small", f"{header.width} x {header.height} px is below min_side_px = {min_side_px}")


@contextmanager
def _pillow(data: bytes) -> Iterator[None]:
    """Run Pillow silently and turn what it raises into BadInputError.

    The filters of `warnings` belong to the whole process; the lock keeps threads from restoring each other's.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Image.DecompressionBombError as error:
            raise BadInputError("too_large", str(error)) from error
        except PILLOW_ERRORS as error:
            raise BadInputError(
                failure_reason(error, data), f"{sniff_format(data) or 'TGA'}: {_describe(error)}"
            ) from error


def _describe(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its message holds a memory address
        return "the header cannot be read"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadInputError("empty", "the file holds no bytes")
    name = sniff_format(data)
    if name in _PLUG_INS:
        pillow_format = _load_plug_in(name)
    elif name is None:
        pillow_format = "TGA"  # the one decoded format without a signature
    elif name in _DECODED:
        pillow_format = name
    else:
        hint = "; archives are read as .tar, .tar.gz, .zip and .parquet" if name in _ARCHIVES else ""
        raise BadInputError("unsupported_format", f"{name} is not decoded{hint}")
    try:
        image = Image.open(io.BytesIO(data), formats=[pillow_format])
    except Image.UnidentifiedImageError as error:
        if name is None:
            raise BadInputError("unsupported_format", f"unknown signature {data[:8].hex(' ')}") from error
        raise
    _refuse_unreadable(image)
    return image


def _load_plug_in(name: str) -> str:
    plug_in = _PLUG_INS[name]
    try:
        module = importlib.import_module(plug_in.module)
    except ImportError as error:
        message = f'{name} needs an optional package: pip install "facemill[{plug_in.extra}]"'
        raise BadInputError("unsupported_format", message) from error
    register: Callable[[], None] | None = getattr(module, "register_heif_opener", None)
    if register is not None:
        register()
    return plug_in.pillow_format


def _refuse_unreadable(image: Image.Image) -> None:
    tags = getattr(image, "tag_v2", {})
    if tags.get(_TIFF_NEW_SUBFILE_TYPE, 0) == 1:
        raise BadInputError("unsupported_format", "TIFF whose first picture is a thumbnail, as in camera raw files")
    # The PPM plug-in scales grey of more than 8 bits to 0..65535 in mode I; elsewhere I means 32 bits or signed.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        raise BadInputError("unsupported_format", f"{image.format} with {image.mode} samples has no agreed white")


def _orientation(image: Image.Image) -> int | None:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except PILLOW_ERRORS:  # a picture with broken EXIF is still a picture
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _pending_orientation(image: Image.Image) -> int:
    """The turn that the decoder left to us, once the pixels are loaded: Pillow has turned TIFF by then."""
    # The JPEG XL plug-in gives the stored order of a packed JPEG only, whatever EXIF says.
    return _orientation(image) or 1 if getattr(image, "jpeg", True) else 1


def _check_announced(header: ImageHeader, stored_width: int, stored_height: int, orientation: int) -> None:
    turned = (stored_height, stored_width) if orientation >= 5 else (stored_width, stored_height)
    if turned != (header.width, header.height):
        announced = f"{header.width} x {header.height}"
        raise BadInputError("decode_error", f"decoded to {turned[0]} x {turned[1]} px, announced {announced}")


def _deep_samples(image: Image.Image) -> tuple[int, bool]:
    """Bits of a sample deeper than 8 and whether 0 is white there, which Pillow leaves to the caller."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0], tags.get(_TIFF_PHOTOMETRIC, 1) == 0


def _rgb_strips(image: Image.Image, *, sample_bits: int, is_inverted: bool) -> Iterator[np.ndarray]:
    """Convert some rows at a time, as converting a large picture whole would hold it three times."""
    step = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        yield _rgb_strip(strip, sample_bits=sample_bits, is_inverted=is_inverted)


def _assemble(strips: Iterable[np.ndarray], header: ImageHeader, orientation: int) -> np.ndarray:
    """Put strips of stored rows, (h, W, 3) or grey (h, W) uint8, at their upright places: (H, W, 3) uint8."""
    upright = np.empty((header.height, header.width, 3), np.uint8)
    turn = _TURNS[orientation]
    across = upright.swapaxes(0, 1) if turn.transposes else upright  # stored rows lie along its first axis
    top = 0
    for strip in strips:
        bottom = top + len(strip)
        place = across[len(across) - bottom : len(across) - top] if turn.fills_backwards else across[top:bottom]
        turned = _turned(strip, turn)
        rows = turned.swapaxes(0, 1) if turn.transposes else turned
        place[:] = rows if rows.ndim == 3 else rows[..., None]
        top = bottom
    return upright


def _turned(strip: np.ndarray, turn: _Turn) -> np.ndarray:
    # By OpenCV, as numpy takes 3 to 5 times as long to copy pixels against their order.
    turned = cv2.transpose(strip) if turn.transposes else strip
    return turned if turn.flip is None else cv2.flip(turned, turn.flip)


def _rgb_strip(strip: Image.Image, *, sample_bits: int, is_inverted: bool) -> np.ndarray:
    """Convert rows of any mode to (h, w, 3) uint8, or to (h, w) when they are grey."""
    if strip.mode.startswith("I"):
        return _grey_of_deep(strip, sample_bits=sample_bits, is_inverted=is_inverted)
    if strip.has_transparency_data:
        return _over_white(np.asarray(strip.convert("RGBA")))
    if strip.mode in ("1", "L"):
        return np.asarray(strip if strip.mode == "L" else strip.convert("L"))
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _grey_of_deep(strip: Image.Image, *, sample_bits: int, is_inverted: bool) -> np.ndarray:
    samples = np.asarray(strip)
    grey = (samples >> (sample_bits - 8)).astype(np.uint8)
    if is_inverted:
        grey = 255 - grey
    if "transparency" in strip.info:
        grey = np.where(samples == strip.info["transparency"], np.uint8(255), grey)
    return grey


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """Lay (h, w, 4) uint8 with straight alpha over white: (h, w, 3) uint8."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


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
    step = max(1, _STRIP_PIXELS // bgr.shape[1])
    strips = (cv2.cvtColor(bgr[top : top + step], cv2.COLOR_BGR2RGB) for top in range(0, len(bgr), step))
    return _assemble(strips, header, orientation)


def _read_jxl_header(data: bytes) -> ImageHeader:
    """Read SizeHeader and the start of ImageMetadata (ISO/IEC 18181-1), as the plug-in decodes all when it opens."""
    _load_plug_in("JXL")
    bits = int.from_bytes(_jxl_codestream(data)[2:18], "little")

    def take(num_bits: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << num_bits) - 1), bits >> num_bits
        return value

    def take_side(is_multiple_of_8: int) -> int:
        return 8 * (1 + take(5)) if is_multiple_of_8 else 1 + take((9, 13, 18, 30)[take(2)])

    is_small = take(1)
    height = take_side(is_small)
    ratio = take(3)
    width = height * _JXL_RATIOS[ratio][0] // _JXL_RATIOS[ratio][1] if ratio else take_side(is_small)
    is_default = take(1)
    orientation = 1 + take(3) if not is_default and take(1) else 1
    if orientation >= 5:
        width, height = height, width
    return ImageHeader("JXL", width, height, orientation)


def _jxl_codestream(data: bytes) -> bytes:
    if data.startswith(b"\xff\x0a"):
        return data[:18]
    for name, content, _ in iso_media_boxes(data):
        if name in (b"jxlc", b"jxlp"):
            start = content + 4 * (name == b"jxlp")  # behind the number of the part
            return data[start : start + 18]
    raise BadInputError("decode_error", "JXL: no codestream")
