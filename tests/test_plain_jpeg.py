"""JPEG without Pillow: the pixels, headers and verdicts must be Pillow's."""

from __future__ import annotations

import functools
import io
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from facemill.models.errors import BadInputError
from facemill.transforms.ops.decoding import ImageHeader, decode_at, read_header
from facemill.transforms.ops.integrity import check_whole
from facemill.transforms.ops.jpeg import decode_plain_jpeg, read_plain_jpeg

CASES = int(os.environ.get("FACEMILL_FUZZ_CASES", "4000"))


# EXIF 2.32, tag 0x0112
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixels(*, height: int = 93, width: int = 141) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encode(mode: str = "RGB", format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def exif_of(**tags: Any) -> bytes:
    exif = Image.Exif()
    for name, value in tags.items():
        exif[ExifTags.Base[name]] = value
    return exif.tobytes()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(check_whole(data, "JPEG"))) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        upright = image if orientation == 1 else image.transpose(TRANSPOSED[orientation])
        return np.asarray(upright.convert("RGB"))


def header_by_pillow(data: bytes) -> ImageHeader:
    with Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        width, height = image.size if (orientation or 1) < 5 else image.size[::-1]
        return ImageHeader(image.format or "", width, height, orientation)


PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {"quality": 90, "subsampling": 2}),
    "4:2:2": ("RGB", {"quality": 75, "subsampling": 1}),
    "4:4:4": ("RGB", {"quality": 75, "subsampling": 0}),
    "low quality": ("RGB", {"quality": 5}),
    "progressive": ("RGB", {"progressive": True}),
    "restart markers": ("RGB", {"restart_marker_blocks": 3}),
    "grey": ("L", {}),
    "progressive grey": ("L", {"progressive": True}),
    "kept RGB": ("RGB", {"keep_rgb": True}),
    "profile and comment": ("RGB", {"icc_profile": b"p" * 70_000, "comment": b"a comment"}),
    "camera": ("RGB", {"exif": exif_of(Make="a maker", XResolution=300.0, Software="of some kind", Orientation=6)}),
    **{f"turned {n}": ("RGB", {"exif": exif_of(Orientation=n)}) for n in range(1, 9)},
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_decoded_as_pillow_would(name: str) -> None:
    mode, options = PLAIN[name]
    data = encode(mode, **options)
    plain = read_plain_jpeg(data)
    assert plain is not None
    assert plain.needs_all_scans == ("progressive" in name)
    assert read_header(data) == header_by_pillow(data)
    image = decode_plain_jpeg(data, plain)
    assert image is not None
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, by_pillow(data))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
NOT_PLAIN = {
    "CMYK": encode("CMYK"),
    "several pictures": encode(format="MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))]),
    "turned by XMP": encode(xmp=XMP),
    "broken EXIF": encode(exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "invalid turn": encode(exif=exif_of(Orientation=9)),
    "PNG": encode(format="PNG"),
    "header that is cut": encode()[:300],
    "two frames": encode().replace(b"\xff\xc0", b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00\xff\xc0", 1),
    "12 bits": encode().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "arithmetic coding": encode().replace(b"\xff\xc0", b"\xff\xc9"),
    "lossless": encode().replace(b"\xff\xc0", b"\xff\xc3"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_anything_odd_is_left_to_pillow(name: str) -> None:
    assert read_plain_jpeg(NOT_PLAIN[name]) is None


def test_the_orientation_in_xmp_still_counts() -> None:
    assert read_header(NOT_PLAIN["turned by XMP"]) == ImageHeader("JPEG", 93, 141, 6)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("damage", ["cut", "cut and ended", "zeros"])
def test_what_libjpeg_warns_of_is_left_to_pillow(mode: str, damage: str) -> None:
    data = encode(mode, quality=95)
    middle = len(data) // 2
    damaged = {
        "cut": data[:middle],
        "cut and ended": data[:middle] + b"\xff\xd9",
        "zeros": data[:middle] + b"\xff\xd0" + data[middle:],
    }[damage]
    plain = read_plain_jpeg(damaged)
    assert plain is not None
    assert decode_plain_jpeg(damaged, plain) is None


@functools.cache
def fuzzed() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 28, 3), dtype=np.uint8))
    files = []
    for mode, options in PLAIN.values():
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "JPEG", **{**options, "icc_profile": None})
        files.append(buffer.getvalue())
    return files


@st.composite
def damaged(draw: Callable[..., Any]) -> bytes:
    data = bytearray(draw(st.sampled_from(fuzzed())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("set", "cut", "drop", "insert"))):
            case "set":
                data[at] = draw(st.sampled_from((0, 1, 2, 3, 4, 0x7F, 0xC0, 0xC4, 0xD9, 0xDA, 0xE1, 0xFE, 0xFF)))
            case "cut":
                data = data[: max(3, at)]
            case "drop":
                del data[at : at + draw(st.integers(1, 40))]
                data += b"\0" * max(0, 3 - len(data))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


def test_damaged_files_get_pillows_header_pixels_and_verdict() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=CASES)
    @given(damaged())
    def fuzz(data: bytes) -> None:
        plain = read_plain_jpeg(data)
        if plain is None:
            outcomes["not plain"] += 1
            return
        assert read_header(data) == header_by_pillow(data)
        try:
            image = decode_plain_jpeg(data, plain)
        except BadInputError as error:
            outcomes["refused"] += 1
            with pytest.raises(BadInputError, match=error.reason):
                check_whole(data, "JPEG")
            return
        outcomes["left" if image is None else "decoded"] += 1
        if image is not None:
            np.testing.assert_array_equal(image, by_pillow(data))
        for reduction in (2, 8):
            try:
                reduced = decode_at(data, read_header(data), reduction=reduction)
            except BadInputError:
                assert image is None
            else:
                assert reduced.reduction == (1 if image is None else reduction)

    fuzz()
    assert min(outcomes[name] for name in ("not plain", "left", "decoded")) > CASES // 50, outcomes
