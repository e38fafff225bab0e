"""Formats by the first bytes of a file."""

from __future__ import annotations

import re

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
    ("BZIP2", 0, b"BZh"),
    ("XZ", 0, b"\xfd7zXZ"),
    ("ZSTD", 0, b"\x28\xb5\x2f\xfd"),
    ("7Z", 0, b"7z\xbc\xaf"),
    ("RAR", 0, b"Rar!"),
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
