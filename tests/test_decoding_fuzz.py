"""Hostile bytes: every decode gives a valid picture or a typed BadInputError, in bounded memory.

About 4,000 mutated files by default; FACEMILL_FUZZ_CASES sets the number.
"""

from __future__ import annotations

import functools
import io
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from facemill.models.errors import FAILURE_REASONS, BadInputError
from facemill.transforms.ops.decoding import decode_image, read_header
from facemill.transforms.ops.signatures import sniff_format

CASES = int(os.environ.get("FACEMILL_FUZZ_CASES", "4000"))
MAX_PIXELS = 200_000
MAX_GROWTH_MB = 400

ORIENTATION_6 = b"Exif\x00\x00" + bytes.fromhex("49492a0008000000 0100 1201 0300 01000000 06000000 00000000")
SAVED: list[tuple[str, str, dict[str, Any]]] = [
    ("RGB", "JPEG", {}),
    ("RGB", "JPEG", {"progressive": True, "exif": ORIENTATION_6}),
    ("CMYK", "JPEG", {}),
    ("RGB", "MPO", {"save_all": True, "append_images": [Image.new("RGB", (16, 16))]}),
    ("RGB", "PNG", {}),
    ("P", "PNG", {"transparency": 3}),
    ("I;16", "PNG", {}),
    ("LA", "PNG", {}),
    ("RGB", "WEBP", {}),
    ("RGBA", "WEBP", {"lossless": True}),
    ("RGB", "WEBP", {"save_all": True, "append_images": [Image.new("RGB", (28, 20))]}),
    ("P", "GIF", {"save_all": True, "append_images": [Image.new("P", (28, 20))]}),
    ("RGB", "BMP", {}),
    ("P", "BMP", {}),
    ("RGB", "TIFF", {}),
    ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    ("RGB", "TIFF", {"compression": "jpeg"}),
    ("1", "TIFF", {"compression": "group4"}),
    ("I;16", "TIFF", {"compression": "tiff_adobe_deflate"}),
    ("RGB", "PPM", {}),
    ("1", "PPM", {}),
    ("RGB", "JPEG2000", {}),
    ("RGB", "JPEG2000", {"no_jp2": True}),
    ("RGB", "TGA", {"compression": "tga_rle"}),
    ("RGB", "SGI", {}),
    ("RGBA", "DDS", {}),
    *([("RGB", "AVIF", {})] if features.check("avif") else []),
]


@functools.cache
def seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    files = []
    for mode, format, options in SAVED:
        buffer = io.BytesIO()
        (deep if mode == "I;16" else colour.convert(mode)).save(buffer, format=format, **options)
        files.append(buffer.getvalue())
    return files


def flip(data: bytes, where: list[float], value: int) -> bytes:
    changed = bytearray(data)
    for fraction in where:
        changed[int(fraction * len(data))] = value
    return bytes(changed)


@st.composite
def mutated(draw: Callable[..., Any]) -> bytes:
    """A small valid file of some format that was flipped, cut, spliced or had a field overwritten."""
    data = draw(st.sampled_from(seeds()))
    fraction = st.floats(0, 1, exclude_max=True)
    for _ in range(draw(st.integers(1, 3))):
        at = int(draw(fraction) * len(data))
        match draw(st.sampled_from(("flip", "header", "cut", "splice", "drop", "field"))):
            case "flip":
                data = flip(data, draw(st.lists(fraction, min_size=1, max_size=8)), draw(st.integers(0, 255)))
            case "header":
                places = [place * 80 / max(80, len(data)) for place in draw(st.lists(fraction, min_size=1, max_size=4))]
                data = flip(data, places, draw(st.sampled_from((0, 1, 2, 127, 128, 254, 255))))
            case "cut":
                data = data[: max(1, at)]
            case "splice":
                other = draw(st.sampled_from(seeds()))
                data = data[:at] + other[int(draw(fraction) * len(other)) :]
            case "drop":
                data = data[:at] + data[at + draw(st.integers(1, 64)) :] or b"\x00"
            case "field":
                field = bytes.fromhex(draw(st.sampled_from(("ffffffff", "00000000", "7fffffff", "0000ffff"))))
                data = data[:at] + field + data[at + 4 :]
    return data


def check(data: bytes) -> None:
    try:
        header = read_header(data)
        image = decode_image(data, max_pixels=MAX_PIXELS, min_side_px=1)
    except BadInputError as error:
        assert error.reason in FAILURE_REASONS
        assert error.reason not in ("read_error", "internal_error")
        assert error.message
        assert " at 0x" not in error.message
        return
    assert image.dtype == np.uint8
    assert image.shape == (header.height, header.width, 3)
    assert image.size <= 3 * MAX_PIXELS
    assert header.exif_orientation in (None, 1, 2, 3, 4, 5, 6, 7, 8)


def peak_mb() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def test_every_seed_decodes() -> None:
    assert len(seeds()) == len(SAVED) >= 26
    for data in seeds():
        assert decode_image(data, max_pixels=MAX_PIXELS, min_side_px=1).shape in ((20, 28, 3), (28, 20, 3))


@pytest.fixture
def bounded_memory() -> Any:
    test_every_seed_decodes()
    before = peak_mb()
    yield
    assert peak_mb() - before < MAX_GROWTH_MB


@pytest.mark.usefixtures("bounded_memory")
def test_mutated_files_decode_or_are_refused() -> None:
    @settings(max_examples=CASES)
    @given(mutated())
    def fuzz(data: bytes) -> None:
        check(data)

    fuzz()


@settings(max_examples=max(100, CASES // 5))
@given(st.binary(max_size=400))
def test_random_bytes_decode_or_are_refused(data: bytes) -> None:
    check(data)
    sniff_format(data)


@settings(max_examples=max(100, CASES // 5))
@given(st.sampled_from(range(len(SAVED))), st.floats(0, 1, exclude_max=True))
def test_a_cut_file_never_gives_other_pixels(index: int, fraction: float) -> None:
    data = seeds()[index]
    whole = decode_image(data, max_pixels=MAX_PIXELS, min_side_px=1)
    try:
        image = decode_image(data[: int(fraction * len(data))], max_pixels=MAX_PIXELS, min_side_px=1)
    except BadInputError as error:
        assert error.reason in ("truncated", "decode_error", "unsupported_format", "empty")
        return
    np.testing.assert_array_equal(image, whole)
