"""Pictures as Pillow reads them: opened by content, turned into RGB over white some rows at a time."""

from __future__ import annotations

import importlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from facemill.models.errors import BadInputError
from facemill.transforms.ops.integrity import PILLOW_ERRORS, failure_reason
from facemill.transforms.ops.signatures import sniff_format
from facemill.transforms.ops.turning import STRIP_PIXELS

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

_quiet_lock = threading.Lock()


@contextmanager
def quiet_pillow(data: bytes) -> Iterator[None]:
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


def open_picture(data: bytes) -> Image.Image:
    """Open a file by its content; BadInputError where it is none of the formats that are decoded."""
    if not data:
        raise BadInputError("empty", "the file holds no bytes")
    name = sniff_format(data)
    if name in _PLUG_INS:
        pillow_format = load_plug_in(name)
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


def load_plug_in(name: str) -> str:
    """Register an optional package with Pillow; its name of the format, or BadInputError where it is not there."""
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


def read_orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8, or None where there is none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except PILLOW_ERRORS:  # a picture with broken EXIF is still a picture
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def pending_orientation(image: Image.Image) -> int:
    """The turn that the decoder left to us, once the pixels are loaded: Pillow has turned TIFF by then."""
    # The JPEG XL plug-in gives the stored order of a packed JPEG only, whatever EXIF says.
    return read_orientation(image) or 1 if getattr(image, "jpeg", True) else 1


def deep_samples(image: Image.Image) -> tuple[int, bool]:
    """Bits of a sample deeper than 8 and whether 0 is white there, which Pillow leaves to the caller."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0], tags.get(_TIFF_PHOTOMETRIC, 1) == 0


def rgb_strips(image: Image.Image, *, sample_bits: int, is_inverted: bool) -> Iterator[np.ndarray]:
    """Convert some rows at a time, as converting a large picture whole would hold it three times."""
    step = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        yield _rgb_strip(strip, sample_bits=sample_bits, is_inverted=is_inverted)


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
