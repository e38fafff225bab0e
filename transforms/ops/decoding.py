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
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image

from facemill.models.errors import BadInputError, FailureReason

# Pillow's plug-ins parse hostile bytes with plain Python and let escape whatever that raises, so this boundary names
# all that they were seen to raise; anything else is our own mistake and must surface.
_PILLOW_ERRORS = (
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
_MAGICS: tuple[tuple[str, int, bytes], ...] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WEBP", 8, b"WEBP"),
    ("CR2", 8, b"CR\x02"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("TIFF", 0, b"II+\x00"),
    ("TIFF", 0, b"MM\x00+"),
    ("JPEG2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG2000", 0, b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
    ("JXL", 0, b"\xff\x0a"),
    ("JXL", 0, b"\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("PSD", 0, b"8BPS"),
    ("DDS", 0, b"DDS "),
    ("SGI", 0, b"\x01\xda"),
    ("ICNS", 0, b"icns"),
    ("RAF", 0, b"FUJIFILMCCD-RAW"),
    ("ORF", 0, b"IIRO"),
    ("ORF", 0, b"IIRS"),
    ("RW2", 0, b"IIU\x00"),
    ("PDF", 0, b"%PDF-"),
    ("EPS", 0, b"%!PS"),
    ("SVG", 0, b"<svg"),
    ("XML", 0, b"<?xml"),
    ("HTML", 0, b"<!DOCTYPE"),
    ("HTML", 0, b"<html"),
    ("ZIP", 0, b"PK\x03\x04"),
    ("GZIP", 0, b"\x1f\x8b\x08"),
    ("AVI", 8, b"AVI "),
    ("BMP", 0, b"BM"),
)
_PATTERNS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("PPM", re.compile(rb"P[1-6y0fF]")),
    ("PCX", re.compile(rb"\n[\x00\x02\x03\x05]\x01")),
    # A TGA of type 2 starts like a cursor file that holds none.
    ("ICO", re.compile(rb"\x00\x00[\x01\x02]\x00[^\x00]")),
)
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_DECODED = frozenset(
    ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PSD", "DDS", "SGI", "BMP", "PPM", "TGA")
)


class _PlugIn(NamedTuple):
    """An optional package that teaches Pillow one more format."""

    module: str
    extra: str
    pillow_format: str


_PLUG_INS = {"HEIC": _PlugIn("pillow_heif", "heif", "HEIF"), "JXL": _PlugIn("pillow_jxl", "jxl", "JXL")}

# libjpeg reads ahead; these are 64 set bits, which no Huffman code matches, so they end a scan without adding to it.
_JPEG_LOOKAHEAD = b"\xff\x00" * 8
_JPEG_MAX_SCANS = 100  # encoders write about 10; each costs a pass over all pixels and may take 10 bytes
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG_PICTURE_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT"))
_DDS_FOURCC = 0x4
_TIFF_NEW_SUBFILE_TYPE = 254
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))  # of strips, of tiles
_WEBP_ALPHA, _WEBP_ANIMATION, _WEBP_LOSSLESS_ALPHA = 0x10, 0x02, 0x10
_JXL_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_STRIP_PIXELS = 1 << 17

_CUT_MESSAGE = re.compile("truncated|only got|not enough|reached eof|buffer is not large enough", re.IGNORECASE)

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


def sniff_format(data: bytes) -> str | None:
    """Name the format that the first bytes announce, also of formats that are not decoded; None when unknown."""
    if data[4:8] == b"ftyp":
        return _sniff_iso_media(data)
    for name, offset, magic in _MAGICS:
        if data.startswith(magic, offset):
            return name
    return next((name for name, pattern in _PATTERNS if pattern.match(data)), None)


def _sniff_iso_media(data: bytes) -> str:
    length = min(int.from_bytes(data[:4], "big"), 256)
    major = data[8:12]
    brands = {major, *(data[i : i + 4] for i in range(16, length, 4))}
    if major in _AVIF_BRANDS or (brands & _AVIF_BRANDS and not brands & _HEIC_BRANDS):
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    return "CR3" if major == b"crx " else f"ISO media {major.decode('latin-1').strip()!r}"


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
    with _pillow(data), _open(_checked(data, header.format)) as image:
        sample_bits, is_inverted = _deep_samples(image)
        image.load()
        orientation = _pending_orientation(image)
        _check_announced(header, *image.size, orientation)
        return _assemble(_rgb_strips(image, sample_bits=sample_bits, is_inverted=is_inverted), header, orientation)


def decode_image(data: bytes, *, max_pixels: int, min_side_px: int) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, upright; `read_header` and `decode_pixels` in one."""
    return decode_pixels(data, read_header(data), max_pixels=max_pixels, min_side_px=min_side_px)


def _checked(data: bytes, format_name: str) -> bytes:
    """Make the checks that the decoders leave out; return the bytes to decode."""
    if format_name in ("JPEG", "MPO"):
        return _pad_jpeg(data)
    if format_name == "PNG":
        _check_png_checksums(data)
    is_cut = _IS_CUT_SILENTLY.get(format_name)
    if is_cut is not None and is_cut(data):
        raise BadInputError("truncated", f"{format_name}: the picture reaches beyond the end of the file")
    return data


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
        except _PILLOW_ERRORS as error:
            raise BadInputError(_reason(error, data), f"{sniff_format(data) or 'TGA'}: {_describe(error)}") from error


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
        raise BadInputError("unsupported_format", f"{name} is not decoded")
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
    except _PILLOW_ERRORS:  # a picture with broken EXIF is still a picture
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
        raise BadInputError("truncated" if _is_cut_riff(data) else "decode_error", "WEBP: the pixels cannot be decoded")
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
    for name, content, _ in _iso_media_boxes(data):
        if name in (b"jxlc", b"jxlp"):
            start = content + 4 * (name == b"jxlp")  # behind the number of the part
            return data[start : start + 18]
    raise BadInputError("decode_error", "JXL: no codestream")


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
    if end.position is None:
        raise BadInputError("truncated", "JPEG: no end marker")
    if not end.needs_all_scans:
        return data[: end.position] + _JPEG_LOOKAHEAD
    if end.num_scans == 1:
        raise BadInputError("truncated", "JPEG: the end marker comes within the first of several scans")
    if end.num_scans > _JPEG_MAX_SCANS:
        raise BadInputError("decode_error", f"JPEG: {end.num_scans} scans are more than {_JPEG_MAX_SCANS}")
    return data


def _reason(error: BaseException, data: bytes) -> FailureReason:
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


def _is_cut_riff(data: bytes) -> bool:
    return int.from_bytes(data[4:8], "little") + 8 > len(data)


def _iso_media_boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
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
    return any(end > len(data) for _, _, end in _iso_media_boxes(data))


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
    except (*_PILLOW_ERRORS, Image.DecompressionBombError):
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
    "WEBP": _is_cut_riff,
    "AVIF": _is_cut_iso_media,
    "HEIC": _is_cut_iso_media,
    "JPEG2000": _is_cut_iso_media,
    "TIFF": _is_cut_tiff,
}
