"""From bytes to upright RGB: pictures made here by Pillow with values computed by hand, then the real ones."""

from __future__ import annotations

import io
import json
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from facemill.models.errors import BadInputError
from facemill.transforms.ops.decoding import ImageHeader, decode_image, decode_pixels, read_header
from facemill.transforms.ops.signatures import sniff_format

HAS_AVIF = features.check("avif")
NEEDS_AVIF = pytest.mark.skipif(not HAS_AVIF, reason="Pillow without AVIF")
COLOURS = {
    "A": (230, 20, 30),
    "B": (20, 220, 40),
    "C": (10, 30, 240),
    "D": (240, 230, 10),
    "E": (250, 250, 250),
    "F": (5, 5, 5),
}
CELL_PX = 16
UPRIGHT = ("ABC", "DEF")
# EXIF 2.32, tag 0x0112, by hand: which cell lies where in the file.
STORED = {
    1: ("ABC", "DEF"),
    2: ("CBA", "FED"),
    3: ("FED", "CBA"),
    4: ("DEF", "ABC"),
    5: ("AD", "BE", "CF"),
    6: ("CF", "BE", "AD"),
    7: ("FC", "EB", "DA"),
    8: ("DA", "EB", "FC"),
}


def paint(cells: tuple[str, ...]) -> np.ndarray:
    grid = np.array([[COLOURS[name] for name in row] for row in cells], np.uint8)
    return grid.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)


def encode(pixels: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def exif_with(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def decode(data: bytes, *, max_pixels: int = 10**7, min_side_px: int = 1) -> np.ndarray:
    image = decode_image(data, max_pixels=max_pixels, min_side_px=min_side_px)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    return image


def refusal(data: bytes, **limits: int) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        decode(data, **limits)
    return caught.value


def max_difference(first: np.ndarray, second: np.ndarray) -> int:
    assert first.shape == second.shape
    return int(cv2.absdiff(first, np.ascontiguousarray(second)).max())


def photo(*, height: int = 96, width: int = 144, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        pytest.param("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 8, marks=NEEDS_AVIF),
    ],
)
def test_every_exif_orientation_is_turned_upright(
    format: str, options: dict[str, Any], tolerance: int, orientation: int
) -> None:
    data = encode(paint(STORED[orientation]), format, exif=exif_with(orientation), **options)
    header = read_header(data)
    assert (header.width, header.height) == (3 * CELL_PX, 2 * CELL_PX)
    # libavif stores a turn as such, and nothing where there is none.
    assert header.exif_orientation == (None if format == "AVIF" and orientation == 1 else orientation)
    assert max_difference(decode(data), paint(UPRIGHT)) <= tolerance


@pytest.mark.parametrize("orientation", STORED)
def test_grey_and_tall_pictures_are_turned_as_colour_is(orientation: int) -> None:
    # More rows than one strip holds, so that the places of the strips matter.
    rows = np.arange(3000, dtype=np.uint16)[:, None] // 12 + np.arange(100, dtype=np.uint16) // 20
    upright = np.minimum(rows, 255).astype(np.uint8)
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    data = encode(np.ascontiguousarray(stored), "PNG", exif=exif_with(orientation))
    np.testing.assert_array_equal(decode(data), np.stack([upright] * 3, axis=-1))


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_invalid_orientation_leaves_the_picture_as_stored(orientation: int) -> None:
    data = encode(paint(UPRIGHT), "PNG", exif=exif_with(orientation))
    assert read_header(data).exif_orientation is None
    np.testing.assert_array_equal(decode(data), paint(UPRIGHT))


@pytest.mark.parametrize(
    "exif",
    [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"],
)
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_broken_exif_does_not_fail_a_picture(format: str, exif: bytes) -> None:
    data = encode(paint(UPRIGHT), format, exif=exif, quality=95)
    assert read_header(data) == ImageHeader(format, 48, 32, None)
    assert max_difference(decode(data)[8::16, 8::16], paint(UPRIGHT)[8::16, 8::16]) <= 12


def over_white(rgb: np.ndarray, alpha: float) -> np.ndarray:
    return np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    return image


def image_of(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(list(values))
    return image


def deep(*values: int) -> Image.Image:
    return Image.fromarray(np.array([values], np.uint16))


RED, GREEN, BLUE, WHITE, BLACK = (200, 0, 0), (0, 200, 0), (0, 0, 200), (255,) * 3, (0,) * 3
MODES: dict[str, tuple[Image.Image, str, dict[str, Any], list[tuple[int, ...]]]] = {
    "1": (image_of("1", 0, 255), "PNG", {}, [BLACK, WHITE]),
    "L": (image_of("L", 0, 77, 255), "PNG", {}, [BLACK, (77,) * 3, WHITE]),
    "L with a transparent grey": (image_of("L", 0, 77), "PNG", {"transparency": 77}, [BLACK, WHITE]),
    "RGB with a transparent colour": (image_of("RGB", RED, BLUE), "PNG", {"transparency": BLUE}, [RED, WHITE]),
    "LA": (image_of("LA", (100, 255), (100, 0), (0, 51)), "PNG", {}, [(100,) * 3, WHITE, (204,) * 3]),
    "RGBA": (image_of("RGBA", (*RED, 255), (*RED, 0), (0, 0, 0, 102)), "PNG", {}, [RED, WHITE, (153,) * 3]),
    "P": (palette_image(), "PNG", {}, [RED, GREEN, BLUE]),
    "P with a transparent entry": (palette_image(), "PNG", {"transparency": 1}, [RED, WHITE, BLUE]),
    "P with alphas": (palette_image(), "PNG", {"transparency": bytes((255, 0, 51))}, [RED, WHITE, (204, 204, 244)]),
    "16 bit PNG": (deep(0, 255, 256, 0x8000, 0xFFFF), "PNG", {}, [BLACK, BLACK, (1,) * 3, (128,) * 3, WHITE]),
    "16 bit TIFF": (deep(0, 0x7FFF, 0xFFFF), "TIFF", {}, [BLACK, (127,) * 3, WHITE]),
    "16 bit LZW TIFF": (deep(0, 0x7FFF, 0xFFFF), "TIFF", {"compression": "tiff_lzw"}, [BLACK, (127,) * 3, WHITE]),
    "16 bit white is 0": (deep(0, 0xFFFF, 0xFF00), "TIFF", {"tiffinfo": {262: 0}}, [WHITE, BLACK, BLACK]),
    "CMYK TIFF": (image_of("CMYK", (0, 255, 255, 0), (0, 0, 0, 51)), "TIFF", {}, [(255, 0, 0), (204,) * 3]),
    "GIF": (palette_image(), "GIF", {}, [RED, GREEN, BLUE]),
    "GIF with a transparent entry": (palette_image(), "GIF", {"transparency": 2}, [RED, GREEN, WHITE]),
    "BMP": (image_of("RGB", RED, BLUE), "BMP", {}, [RED, BLUE]),
    "BMP of 1 bit": (image_of("1", 0, 255), "BMP", {}, [BLACK, WHITE]),
    "PPM": (image_of("RGB", RED, BLUE), "PPM", {}, [RED, BLUE]),
    "PBM": (image_of("1", 0, 255), "PPM", {}, [BLACK, WHITE]),
    "PGM": (image_of("L", 0, 9), "PPM", {}, [BLACK, (9,) * 3]),
    "WebP with alpha": (image_of("RGBA", (*RED, 255), (*RED, 0)), "WEBP", {"lossless": True}, [RED, WHITE]),
    "TGA": (image_of("RGB", RED, BLUE), "TGA", {}, [RED, BLUE]),
    "TGA with alpha": (image_of("RGBA", (*RED, 255), (*BLUE, 0)), "TGA", {}, [RED, WHITE]),
    "SGI": (image_of("RGB", RED, BLUE), "SGI", {}, [RED, BLUE]),
    "DDS": (image_of("RGB", RED, BLUE), "DDS", {}, [RED, BLUE]),
    "JPEG 2000": (image_of("RGB", RED, BLUE), "JPEG2000", {}, [RED, BLUE]),
    "JPEG 2000 codestream": (image_of("RGB", RED, BLUE), "JPEG2000", {"no_jp2": True}, [RED, BLUE]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb_over_white(name: str) -> None:
    image, format, options, expected = MODES[name]
    data = encode(image, format, **options)
    assert read_header(data) == ImageHeader(format, len(expected), 1, None)
    assert max_difference(decode(data), np.array([expected], np.uint8)) <= 1


def png_of(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + pixels + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_16_bit_colour_keeps_the_high_byte() -> None:
    data = png_of(2, 1, 16, 2, b"\x00" + bytes.fromhex("ffff 8000 00ff 0100 7fff 0000"))
    assert decode(data).tolist() == [[[255, 128, 0], [1, 127, 0]]]


def test_16_bit_grey_with_a_transparent_value() -> None:
    transparent = png_chunk(b"tRNS", bytes.fromhex("1234"))
    data = png_of(2, 1, 16, 0, b"\x00" + bytes.fromhex("1234 1235"), extra=transparent)
    assert decode(data)[0, :, 0].tolist() == [255, 0x12]


def test_16_bit_pgm_is_scaled_by_its_maximum() -> None:
    data = b"P5 3 1 1000\n" + struct.pack(">HHH", 0, 400, 1000)
    assert decode(data)[0, :, 0].tolist() == [0, 102, 255]


def test_12_bit_tiff_is_scaled_from_12_bits() -> None:
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\x00" + struct.pack("<I", 12) + bytes.fromhex("fff800") + b"\x00"
    data += struct.pack("<H", len(tags)) + entries + bytes(4)
    assert decode(data)[0, :, 0].tolist() == [255, 0x80]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_the_first_frame_is_taken(format: str) -> None:
    first, second = Image.new("RGB", (32, 16), (255, 0, 0)), Image.new("RGB", (32, 16), (0, 0, 255))
    data = encode(first, format, save_all=True, append_images=[second])
    assert read_header(data) == ImageHeader(format, 32, 16, None)
    assert max_difference(decode(data), np.full((16, 32, 3), (255, 0, 0), np.uint8)) <= 4


JPEGS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {"quality": 90, "subsampling": 2}),
    "4:4:4": ("RGB", {"quality": 75, "subsampling": 0}),
    "progressive": ("RGB", {"progressive": True}),
    "restart markers": ("RGB", {"restart_marker_blocks": 3}),
    "grey": ("L", {}),
    "progressive grey": ("L", {"progressive": True}),
    "CMYK": ("CMYK", {}),
    "kept RGB": ("RGB", {"keep_rgb": True}),
}


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_pixels_equal_opencv(name: str) -> None:
    mode, options = JPEGS[name]
    data = encode(Image.fromarray(photo(height=93, width=141)).convert(mode), "JPEG", **options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert max_difference(decode(data), expected) <= 2


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}])
def test_webp_pixels_equal_pillow(options: dict[str, Any]) -> None:
    data = encode(photo(), "WEBP", **options)
    with Image.open(io.BytesIO(data)) as image:
        assert max_difference(decode(data), np.asarray(image.convert("RGB"))) <= 2


FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("RGB", {}),
    "progressive JPEG": ("RGB", {"format": "JPEG", "progressive": True}),
    "CMYK JPEG": ("CMYK", {"format": "JPEG"}),
    "PNG": ("RGB", {}),
    "WEBP": ("RGB", {}),
    "lossless WEBP": ("RGBA", {"format": "WEBP", "lossless": True}),
    "GIF": ("P", {}),
    "BMP": ("RGB", {}),
    "TIFF": ("RGB", {}),
    "LZW TIFF": ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}),
    "JPEG TIFF": ("RGB", {"format": "TIFF", "compression": "jpeg"}),
    "PPM": ("RGB", {}),
    "JPEG2000": ("RGB", {}),
    "TGA": ("RGB", {}),
    "SGI": ("RGB", {}),
    "DDS": ("RGB", {}),
}
if HAS_AVIF:
    FORMATS["AVIF"] = ("RGB", {})


def sample(name: str) -> bytes:
    mode, options = FORMATS[name]
    return encode(Image.fromarray(photo()).convert(mode), **{"format": name, **options})


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_truncated_never_partly_grey(name: str, fraction: float) -> None:
    data = sample(name)
    assert decode(data).shape == (96, 144, 3)
    assert refusal(data[: int(fraction * len(data))]).reason == "truncated"


@pytest.mark.parametrize("name", ["JPEG", "progressive JPEG", "CMYK JPEG"])
def test_a_cut_jpeg_that_was_given_an_end_is_truncated(name: str) -> None:
    # libjpeg, and so OpenCV, paints the missing rest grey and says nothing.
    data = sample(name)
    first_scan = data.index(b"\xff\xda")
    cut = data[: first_scan + 200] + b"\xff\xd9"
    assert cv2.imdecode(np.frombuffer(cut, np.uint8), cv2.IMREAD_COLOR) is not None
    assert refusal(cut).reason == "truncated"


def test_what_follows_a_jpeg_is_ignored() -> None:
    data = sample("JPEG")
    np.testing.assert_array_equal(decode(data + b"\x00" * 5000 + data), decode(data))


def test_a_flipped_bit_in_png_pixels_is_a_decode_error() -> None:
    data = bytearray(encode(photo(), "PNG", compress_level=0))
    data[len(data) // 2] ^= 1
    error = refusal(bytes(data))
    assert error.reason == "decode_error"
    assert "checksum" in error.message


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty", "no bytes"),
        (b"hello, this is a text", "unsupported_format", "unknown signature 68 65 6c 6c"),
        (b"\x00" * 100, "unsupported_format", "unknown signature"),
        (b"%PDF-1.7\n" + bytes(50), "unsupported_format", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format", "SVG"),
        (b"\n\x05\x01\x08" + bytes(200), "unsupported_format", "PCX"),
        (b"PK\x03\x04" + bytes(50), "unsupported_format", "ZIP"),
        (b"\x00\x00\x01\x00\x01\x00" + bytes(50), "unsupported_format", "ICO"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(50), "unsupported_format", "CR2"),
        (b"\x00\x00\x00\x18ftypcrx " + bytes(50), "unsupported_format", "CR3"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(50), "unsupported_format", "isom"),
        (b"\x89PNG\r\n\x1a\n", "truncated", "PNG"),
        (b"\xff\xd8\xff", "truncated", "JPEG"),
        (b"GIF89a", "truncated", "GIF"),
        (b"BM" + bytes(60), "decode_error", "BMP"),
        (b"P6 -3 4 255\n" + bytes(60), "decode_error", "PPM"),
    ],
)
def test_refusals_are_typed_and_name_the_thing(data: bytes, reason: str, words: str) -> None:
    error = refusal(data)
    assert error.reason == reason
    assert words in error.message
    assert " at 0x" not in error.message  # messages are part of the output, which is to be reproducible
    with pytest.raises(BadInputError):
        read_header(data)


@pytest.mark.parametrize(
    ("name", "data", "module"),
    [
        ("HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(50), "pillow_heif"),
        ("HEIC", b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic" + bytes(50), "pillow_heif"),
        ("JXL", b"\xff\x0a" + bytes(50), "pillow_jxl"),
        ("JXL", b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(50), "pillow_jxl"),
    ],
)
def test_a_missing_plug_in_is_named(name: str, data: bytes, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    error = refusal(data)
    assert error.reason == "unsupported_format"
    assert f'{name} needs an optional package: pip install "facemill[' in error.message


@pytest.mark.parametrize("orientation", STORED)
def test_heic_is_turned_once(orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = encode(paint(STORED[orientation]), "HEIF", exif=exif_with(orientation), quality=100, chroma=444)
    assert max_difference(decode(data), paint(UPRIGHT)) <= 12
    assert refusal(data[:-20]).reason == "truncated"


@pytest.mark.parametrize("orientation", STORED)
def test_jpeg_xl_is_turned_once(orientation: int, tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    path = tmp_path / "packed.jpg"
    path.write_bytes(encode(paint(STORED[orientation]), "JPEG", exif=exif_with(orientation), quality=95))
    with Image.open(path) as image:
        data = encode(image, "JXL", lossless_jpeg=True)
    assert read_header(data) == ImageHeader("JXL", 48, 32, orientation)
    np.testing.assert_array_equal(decode(data), decode(path.read_bytes()))


@pytest.mark.parametrize("size_wh", [(1, 1), (8, 8), (264, 16), (1000, 750), (1600, 900), (4000, 3), (5, 4)])
def test_jpeg_xl_size_is_read_without_decoding(size_wh: tuple[int, int]) -> None:
    pytest.importorskip("pillow_jxl")
    assert read_header(encode(Image.new("RGB", size_wh), "JXL"))[1:3] == size_wh


def test_a_thumbnail_page_of_a_raw_file_is_not_the_picture() -> None:
    assert refusal(encode(photo(), "TIFF", tiffinfo={254: 1})).reason == "unsupported_format"


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_an_agreed_white_are_refused(mode: str) -> None:
    error = refusal(encode(Image.new(mode, (4, 4)), "TIFF"))
    assert error.reason == "unsupported_format"
    assert "white" in error.message


def test_limits_are_upright_and_inclusive() -> None:
    data = encode(paint(STORED[6]), "JPEG", exif=exif_with(6))
    assert decode(data, max_pixels=48 * 32, min_side_px=32).shape == (32, 48, 3)
    assert refusal(data, max_pixels=48 * 32 - 1).message == "48 x 32 px is more than max_pixels = 1535"
    assert refusal(data, max_pixels=48 * 32 - 1).reason == "too_large"
    assert refusal(data, min_side_px=33).reason == "too_small"
    assert "min_side_px = 33" in refusal(data, min_side_px=33).message


def test_the_header_outlives_a_failure_of_the_pixels() -> None:
    data = sample("JPEG")[:2000]
    header = read_header(data)
    assert header == ImageHeader("JPEG", 144, 96, None)
    with pytest.raises(BadInputError, match="truncated"):
        decode_pixels(data, header, max_pixels=10**6, min_side_px=1)


BOMBS = {
    "PNG header": png_of(60000, 60000, 8, 2, b""),
    "PNG below Pillow's limit": png_of(10000, 9000, 8, 2, b""),
    "GIF header": b"GIF89a" + struct.pack("<HHBBBcHHHHBB", 65535, 65535, 0, 0, 0, b",", 0, 0, 65535, 65535, 0, 8),
    "BMP header": b"BM" + bytes(12) + struct.pack("<IiiHHIIIIII", 40, 2**31 - 127, 64, 1, 1, *bytes(6)) + bytes(8),
    "PPM header": b"P6 99999 99999 255\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_declared_bomb_is_too_large(name: str) -> None:
    assert refusal(BOMBS[name], max_pixels=10**7).reason == "too_large"


TEXT_BOMB = png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(100 << 20)))
PROFILE_BOMB = png_chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(100 << 20)))


@pytest.mark.parametrize("bomb", [TEXT_BOMB, PROFILE_BOMB])
def test_a_bomb_in_the_notes_of_a_png_is_bounded(bomb: bytes) -> None:
    data = png_of(1, 1, 8, 0, b"\x00\x07", extra=bomb)
    try:
        assert decode(data).tolist() == [[[7, 7, 7]]]
    except BadInputError as error:
        assert error.reason == "decode_error"


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = sample("progressive JPEG")
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode(data[:-2] + 20 * last_scan + data[-2:]).shape == (96, 144, 3)
    assert refusal(data[:-2] + 1000 * last_scan + data[-2:]).reason == "decode_error"


def test_absurd_tiff_strips_are_refused() -> None:
    tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 2**31, 277: 1, 278: 1, 279: 2**31}
    counts = {273: 2**28, 279: 2**28}
    entries = b"".join(struct.pack("<HHII", tag, 4, counts.get(tag, 1), value) for tag, value in tags.items())
    data = b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert refusal(data).reason in ("truncated", "decode_error")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_arguments_and_process_state_are_left_alone(format: str) -> None:
    data = encode(photo(), format)
    before, max_pixels, filters = bytes(bytearray(data)), Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    decode(data)
    assert (data, max_pixels, filters) == (before, Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def test_threads_do_not_spoil_the_warning_filters() -> None:
    data, filters, failures = sample("PNG"), list(warnings.filters), []

    def work() -> None:
        try:
            for _ in range(20):
                decode(data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "WEBP"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif", "AVIF"),
        (b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1miaf", "AVIF"),
        (b"P5\n", "PPM"),
        (b"\x00\x00\x02\x00\x00\x00\x00\x00", None),
    ],
)
def test_sniffing_goes_by_content(data: bytes, expected: str | None) -> None:
    assert sniff_format(data) == expected


REFUSED = {
    "corrupt__badbitcount.bmp": {"decode_error"},
    "corrupt__badpalettesize.bmp": {"decode_error"},
    "corrupt__badwidth.bmp": {"too_large"},
    "corrupt__broken_data_stream.png": {"truncated", "decode_error"},
    "corrupt__decompression_bomb.gif": {"too_large"},
    "corrupt__decompression_bomb.ico": {"unsupported_format"},
    "corrupt__libtiff_segfault.tif": {"decode_error"},
    "corrupt__negative_size.ppm": {"decode_error"},
    "corrupt__reallybig.bmp": {"too_large"},
    "corrupt__truncated_image.png": {"truncated"},
    "corrupt__unbound_variable.jp2": {"decode_error", "truncated"},
    "corrupt__zero_width.gif": {"decode_error", "truncated"},
    "hopper__hopper_webp.tif": {"decode_error"},
    "modern__8bit-sRGB.jxl": {"unsupported_format"},
    "modern__IMG_2682.heic": {"unsupported_format"},
}


def formats_manifest(shared_data: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (shared_data / "formats" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 101
    return rows


def formats_bytes(shared_data: Path, name: str) -> bytes:
    return (shared_data / "formats" / "images" / name).read_bytes()


def test_the_real_files_meet_their_manifest(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    rows = formats_manifest(shared_data)
    assert {row["image"] for row in rows if row["pil"] != "ok"} == set(REFUSED)
    for row in rows:
        data = formats_bytes(shared_data, row["image"])
        if row["image"] in REFUSED:
            assert refusal(data, max_pixels=10**8).reason in REFUSED[row["image"]], row["image"]
            continue
        header = read_header(data)
        orientation = row["exif_orientation"] or None
        size_wh = tuple(row["size"])
        if header.exif_orientation is not None and header.exif_orientation >= 5:
            size_wh = size_wh[::-1]
        assert header == (row["format"], *size_wh, orientation), row["image"]
        image = decode_pixels(data, header, max_pixels=10**8, min_side_px=1)
        assert image.shape == (header.height, header.width, 3), row["image"]


def upright_reference(name: str) -> str | None:
    """The upright picture that a turned one must look like, where the file itself is turned by EXIF."""
    if ".sidecar." in name:  # turned by a file beside it, not by EXIF
        return None
    prefixes = {
        "exif__": "hopper__hopper.ppm",
        "exif_big__Landscape": "exif_big__Landscape_1.jpg",
        "exif_face__": "exif_face__photo.jpg",
    }
    return next((reference for prefix, reference in prefixes.items() if name.startswith(prefix)), None)


def test_real_turned_pictures_look_like_the_upright_one(shared_data: Path) -> None:
    pairs = [(row["image"], upright_reference(row["image"])) for row in formats_manifest(shared_data)]
    pairs = [(name, reference) for name, reference in pairs if reference is not None and name != reference]
    assert len(pairs) == 8 + 5 + 3
    for name, reference in pairs:
        first, second = (
            cv2.resize(decode(formats_bytes(shared_data, each)), (24, 24), interpolation=cv2.INTER_AREA).astype(int)
            for each in (name, reference)
        )
        as_stored = min(np.abs(np.rot90(first, turns) - second).mean() for turns in (1, 2, 3))
        assert np.abs(first - second).mean() < min(12, as_stored / 2), name


def test_real_jpegs_equal_opencv(shared_data: Path) -> None:
    names = [row["image"] for row in formats_manifest(shared_data) if row.get("format") == "JPEG"]
    assert len(names) > 30
    for name in names:
        data = formats_bytes(shared_data, name)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert max_difference(decode(data, max_pixels=10**8), expected) <= 2, name
