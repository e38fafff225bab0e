"""The shard readers against archives of the standard library and pyarrow, and against hostile ones made by hand."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.transforms.ops.kinds import ShardKind, shard_kind
from facemill.transforms.ops.members import Member, ReadLimits, is_ignored
from facemill.transforms.ops.shards import iterate_members, split_shard

LIMITS = ReadLimits()
SMALL = ReadLimits(max_member_bytes=1000, max_expansion=10, free_expansion_bytes=20_000)
FILES = [("ann/1.jpg", b"first"), ("ann/2.jpg", b"second" * 300), ("bob/deep/1.png", b"\0" * 513), ("top.webp", b"x")]
Files = Sequence[tuple[str, bytes]]


def tar_bytes(files: Files, *, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(files: Files, *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def parquet_bytes(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def files_table(files: Files) -> pa.Table:
    return pa.table({"image": pa.array([data for _, data in files], pa.binary()), "path": [name for name, _ in files]})


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A ustar header block by the layout of POSIX.1-1988, with `size` as the raw 12 bytes."""
    fields = name.ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0") + b"00000000000\0" + b" " * 8 + kind
    block = (fields.ljust(257, b"\0") + b"ustar\x0000").ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def read(data: bytes, kind: ShardKind, limits: ReadLimits = LIMITS, **options: object) -> list[Member]:
    return list(iterate_members(io.BytesIO(data), kind, limits=limits, **options))  # type: ignore[arg-type]


def outcomes(members: Sequence[Member]) -> list[tuple[str, str | None]]:
    """Name and reason of each member; data and failure exclude each other."""
    assert all((member.data is None) == (member.failure is not None) for member in members)
    return [(member.name, member.failure.reason if member.failure else None) for member in members]


def message(member: Member) -> str:
    assert member.failure is not None
    return member.failure.message


PACKED: dict[str, tuple[ShardKind, bytes]] = {
    "ustar": ("tar", tar_bytes(FILES, tar_format=tarfile.USTAR_FORMAT)),
    "gnu": ("tar", tar_bytes(FILES, tar_format=tarfile.GNU_FORMAT)),
    "pax": ("tar", tar_bytes(FILES)),
    "tar.gz": ("tar", gzip.compress(tar_bytes(FILES))),
    "two gzip members": (
        "tar",
        gzip.compress(tar_bytes(FILES)[:700]) + gzip.compress(tar_bytes(FILES)[700:]) + b"\0" * 9,
    ),
    "concatenated tars": ("tar", tar_bytes(FILES[:2]) + tar_bytes(FILES[2:])),
    "stored zip": ("zip", zip_bytes(FILES, compression=zipfile.ZIP_STORED)),
    "deflated zip": ("zip", zip_bytes(FILES)),
    "bzip2 zip": ("zip", zip_bytes(FILES, compression=zipfile.ZIP_BZIP2)),
    "zip behind a program": ("zip", b"MZ" * 500 + zip_bytes(FILES)),
    "parquet": ("parquet", parquet_bytes(files_table(FILES), row_group_size=2)),
}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/b.tar", "tar"),
        ("B.TAR.GZ", "tar"),
        ("b.tgz", "tar"),
        ("b.Zip", "zip"),
        ("b.parquet", "parquet"),
        ("b.tfrecord", "tfrecord"),
        ("b.tfrecords", "tfrecord"),
        ("b.tfrecord.gz", "tfrecord"),
        ("b.tfrecord-00003-of-00010", "tfrecord"),
        ("b-00003-of-00010.tfrecord", "tfrecord"),
        ("train-00003-of-00010", "tfrecord"),
        ("b-1-of-2", None),
        ("b.tfrecord-00003-of-00010.jpg", None),
        ("b.rec", "recordio"),
        ("b.gz", None),
        ("tar", None),
        ("b.tar/c.jpg", None),
    ],
)
def test_shard_kind_goes_by_the_ending(path: str, kind: str | None) -> None:
    assert shard_kind(path) == kind


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        (".DS_Store", True),
        ("a/._1.jpg", True),
        ("__MACOSX/a/1.jpg", True),
        (".cache/1.jpg", True),
        ("a/Thumbs.db", True),
        ("a/1.JSON", True),
        ("a/1.cls", True),
        ("a/1.jpg", False),
        ("a/1", False),
        ("a/1.heic", False),
        ("../../1.jpg", False),
        ("./1.jpg", False),
        ("/1.jpg", False),
        ("", False),
    ],
)
def test_is_ignored_spares_everything_that_may_be_a_picture(name: str, ignored: bool) -> None:
    assert is_ignored(name) is ignored


def test_is_ignored_takes_other_extensions() -> None:
    assert is_ignored("1.jpg", {".jpg"})
    assert not is_ignored("1.json", {".jpg"})


@pytest.mark.parametrize("packing", PACKED)
def test_every_packing_gives_the_same_members(packing: str) -> None:
    kind, data = PACKED[packing]
    members = read(data, kind)
    if kind == "parquet":
        assert [member.name for member in members] == [f"{row:08d}/{name}" for row, (name, _) in enumerate(FILES)]
    else:
        assert [member.name for member in members] == [name for name, _ in FILES]
        assert [member.label for member in members] == ["ann", "ann", "deep", None]
    assert [member.data for member in members] == [data for _, data in FILES]


@pytest.mark.parametrize("packing", ["pax", "tar.gz", "deflated zip", "parquet"])
def test_reads_from_fsspec_file_systems(packing: str, tmp_path: Path) -> None:
    kind, data = PACKED[packing]
    for url in (f"memory://test_shards/{kind}", str(tmp_path / "shard")):
        with fsspec.open(url, "wb") as file:
            file.write(data)
        with fsspec.open(url, "rb") as file:
            members = list(iterate_members(file, kind, limits=LIMITS))
        assert [member.data for member in members] == [data for _, data in FILES]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("tar", tar_bytes([])),
        ("tar", gzip.compress(tar_bytes([]))),
        ("zip", zip_bytes([])),
        ("parquet", parquet_bytes(files_table([]))),
    ],
)
def test_an_empty_archive_holds_nothing(kind: ShardKind, data: bytes) -> None:
    assert read(data, kind) == []
    assert len(split_shard(io.BytesIO(data), kind, 10)) == 1


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
@pytest.mark.parametrize("size", [1, 100, 511, 512, 5000])
def test_what_is_no_archive_gets_one_row(kind: ShardKind, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert outcomes(read(data, kind)) == [("", "read_error")]
    (only,) = split_shard(io.BytesIO(data), kind, 10)
    assert outcomes(read(data, kind, start=only.start, stop=only.stop)) == [("", "read_error")]


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
def test_an_empty_file_gets_one_row(kind: ShardKind) -> None:
    assert outcomes(read(b"", kind)) == [("", "empty")]
    assert len(split_shard(io.BytesIO(b""), kind, 10)) == 1


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_names_are_text_whatever_they_say(pack) -> None:  # type: ignore[no-untyped-def]
    kind: ShardKind = "tar" if pack is tar_bytes else "zip"
    files = [
        ("../../etc/cron.d/1.jpg", b"1"),
        ("/abs/2.jpg", b"2"),
        ("./3.jpg", b"3"),
        ("é/日本.jpg", b"4"),
        ("n" * 300, b""),
    ]
    members = read(pack(files), kind)
    assert outcomes(members) == [(name, "empty" if not data else None) for name, data in files]
    assert [member.label for member in members] == ["cron.d", "abs", None, "é", None]


def test_folders_hidden_files_and_sidecars_are_no_members() -> None:
    files = [("a/", b""), ("a/1.jpg", b"1"), ("a/1.json", b"{}"), ("__MACOSX/a/._1.jpg", b"m"), (".DS_Store", b"d")]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for kind, data in (("tar", buffer.getvalue()), ("zip", zip_bytes(files))):
        assert read(data, kind) == [Member("a/1.jpg", b"1", "a")]
        assert [member.name for member in read(data, kind, ignored_extensions={".jpg"})] == ["a/1.json"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_repeated_names_are_numbered(pack) -> None:  # type: ignore[no-untyped-def]
    data = pack([(name, name.encode()) for name in ("a", "a~2", "a", "a", "b")])
    kind: ShardKind = "tar" if pack is tar_bytes else "zip"
    assert [member.name for member in read(data, kind)] == ["a", "a~2", "a~3", "a~4", "b"]
    if kind == "tar":
        assert split_shard(io.BytesIO(data), kind, 1) == [(0, len(data), len(data))]


def test_many_equal_names_take_linear_time() -> None:
    block = header(b"a", octal(0))
    members = read(block * 20_000 + b"\0" * 1024, "tar")
    assert members[-1].name == "a~20000"
    assert len(members) == len({member.name for member in members}) == 20_000


@pytest.mark.parametrize("packing", ["pax", "tar.gz", "stored zip", "deflated zip", "bzip2 zip"])
def test_a_member_beyond_the_limit_is_too_large_and_the_next_is_read(packing: str) -> None:
    kind, data = PACKED[packing]
    assert outcomes(read(data, kind, SMALL)) == [
        ("ann/1.jpg", None),
        ("ann/2.jpg", "too_large"),
        ("bob/deep/1.png", None),
        ("top.webp", None),
    ]


def test_parquet_value_beyond_the_limit_is_too_large() -> None:
    members = read(PACKED["parquet"][1], "parquet", SMALL)
    assert [reason for _, reason in outcomes(members)] == [None, "too_large", None, None]


class TestTar:
    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (tarfile.SYMTYPE, "symbolic link"),
            (tarfile.LNKTYPE, "hard link"),
            (tarfile.CHRTYPE, "character device"),
            (tarfile.BLKTYPE, "block device"),
            (tarfile.FIFOTYPE, "named pipe"),
        ],
    )
    def test_special_files_are_not_followed(self, kind: bytes, words: str) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("a/evil.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
            info = tarfile.TarInfo("a/2.jpg")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"2"))
        evil, good = read(buffer.getvalue(), "tar")
        assert outcomes([evil]) == [("a/evil.jpg", "read_error")]
        assert words in message(evil)
        assert good == Member("a/2.jpg", b"2", "a")

    def test_links_have_no_data_whatever_size_they_claim(self) -> None:
        data = header(b"l", octal(1000), b"1") + header(b"1.jpg", octal(1)) + b"1".ljust(512, b"\0") + bytes(1024)
        assert outcomes(read(data, "tar")) == [("l", "read_error"), ("1.jpg", None)]

    def test_sparse_files_are_refused_and_skipped(self) -> None:
        old = bytearray(header(b"old", octal(512), b"S"))
        old[482] = 1
        old[148:156] = b"%06o\0 " % (sum(old[:148]) + 8 * 32 + sum(old[156:]))
        more = bytes(504) + b"\1" + bytes(7)
        records = b"22 GNU.sparse.major=1\n31 GNU.sparse.name=dir/pax.jpg\n"
        pax = header(b"x", octal(len(records)), b"x") + records.ljust(512, b"\0")
        data = bytes(old) + more + bytes(512) + b"d" * 512 + pax + header(b"p", octal(5)) + b"12345".ljust(512, b"\0")
        members = read(data + header(b"next", octal(1)) + b"n".ljust(512, b"\0") + bytes(1024), "tar")
        assert outcomes(members) == [("old", "read_error"), ("dir/pax.jpg", "read_error"), ("next", None)]
        assert "sparse" in message(members[0])
        assert "sparse" in message(members[1])

    def test_v7_headers_and_undecodable_names(self) -> None:
        block = bytearray(header(b"caf\xe9/1.jpg", octal(1), b"\0"))
        block[257:265] = bytes(8)
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
        members = read(bytes(block) + b"v".ljust(512, b"\0") + header(b"d/", octal(0), b"\0") + bytes(1024), "tar")
        assert members == [Member("caf\\xe9/1.jpg", b"v", "caf\\xe9")]

    def test_global_and_link_headers_are_passed_over(self) -> None:
        comment = b"19 comment=abcdefg\n"
        data = header(b"g", octal(len(comment)), b"g") + comment.ljust(512, b"\0")
        data += header(b"K", octal(3), b"K") + b"abc".ljust(512, b"\0")
        data += header(b"1.jpg", octal(1)) + b"1".ljust(512, b"\0") + bytes(1024)
        assert read(data, "tar") == [Member("1.jpg", b"1")]

    @pytest.mark.parametrize("cut", [600, 1024, 1025, 1536, 3000, 3500])
    @pytest.mark.parametrize("gzipped", [False, True])
    def test_a_truncated_archive_ends_with_one_row(self, cut: int, gzipped: bool) -> None:
        # Blocks of the whole: header, data | header, 4 of data | header, 2 of data | header, data | zeros.
        data = tar_bytes(FILES, tar_format=tarfile.USTAR_FORMAT)[:cut]
        num_whole = sum(data_end <= cut for data_end in (512 + 5, 1536 + 1800, 4096 + 513))
        members = read(gzip.compress(data) if gzipped else data, "tar")
        assert outcomes(members) == [(name, None) for name, _ in FILES[:num_whole]] + [("", "truncated")]

    def test_a_truncated_gzip_stream_ends_with_one_row(self) -> None:
        files = [(f"{index}.jpg", random.Random(index).randbytes(50_000)) for index in range(10)]
        packed = gzip.compress(tar_bytes(files))
        members = read(packed[: len(packed) // 2], "tar")
        assert [member.data for member in members[:-1]] == [data for _, data in files[:4]]
        assert outcomes(members[-1:]) == [("", "truncated")]

    def test_an_archive_cut_between_members_is_noticed(self) -> None:
        data = tar_bytes(FILES, tar_format=tarfile.USTAR_FORMAT)[:1024]
        assert outcomes(read(data, "tar")) == [("ann/1.jpg", None), ("", "truncated")]

    def test_a_damaged_header_is_noticed(self) -> None:
        data = bytearray(tar_bytes(FILES, tar_format=tarfile.USTAR_FORMAT))
        data[1024 + 3] ^= 1
        members = read(bytes(data), "tar")
        assert outcomes(members) == [("ann/1.jpg", None), ("", "read_error")]
        assert "byte 1024" in message(members[-1])

    def test_a_damaged_gzip_checksum_is_noticed(self) -> None:
        packed = bytearray(gzip.compress(tar_bytes(FILES)))
        packed[-5] ^= 1
        assert outcomes(read(bytes(packed), "tar")) == [(name, None) for name, _ in FILES] + [("", "read_error")]

    @pytest.mark.parametrize(
        ("size", "reason"),
        [
            (b"\xff" * 12, "read_error"),  # base 256: -1
            (b"-0000000001\0", "read_error"),
            (b"\x80" + b"\xff" * 11, "truncated"),  # base 256: 2**88 - 1
            (octal(8**11 - 1), "truncated"),
        ],
    )
    @pytest.mark.parametrize("gzipped", [False, True])
    def test_impossible_sizes_end_the_archive(self, size: bytes, reason: str, gzipped: bool) -> None:
        data = header(b"1.jpg", size) + bytes(2048)
        last = read(gzip.compress(data) if gzipped else data, "tar")[-1]
        assert outcomes([last]) == [("", reason)]

    @pytest.mark.parametrize("kind", [b"x", b"L", b"g", b"X", b"K"])
    @pytest.mark.parametrize("size", [10 * 2**30, 2**20 + 1])
    def test_huge_extended_headers_are_not_allocated(self, kind: bytes, size: int) -> None:
        data = header(b"1.jpg", b"\x80" + size.to_bytes(11, "big"), kind) + bytes(1024)
        tracemalloc.start()
        try:
            members = read(data, "tar")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert [member.name for member in members] == [""]
        assert peak < 2**20

    @pytest.mark.parametrize("kind", [b"x", b"L"])
    def test_extended_headers_beyond_the_limit_end_the_archive(self, kind: bytes) -> None:
        data = header(b"x", octal(2**20 + 512), kind) + bytes(2**20 + 512) + tar_bytes(FILES)
        assert outcomes(read(data, "tar")) == outcomes(read(gzip.compress(data), "tar")) == [("", "read_error")]

    @pytest.mark.parametrize("record", [b"5 a=\n", b"99 path=x\n", b"path=x\n", b"0 a=b\n", b"9" * 5000 + b" a=b\n"])
    def test_malformed_pax_records_end_the_archive(self, record: bytes) -> None:
        valid = b"5 a=\n"  # LENGTH counts itself, the blank, the key, "=", the value and the line feed
        data = header(b"x", octal(len(record)), b"x") + record.ljust(-(-len(record) // 512) * 512, b"\0")
        members = read(data + header(b"1.jpg", octal(1)) + b"1".ljust(512, b"\0") + bytes(1024), "tar")
        assert outcomes(members) == [("1.jpg", None) if record == valid else ("", "read_error")]

    def test_a_chain_of_extended_headers_ends(self) -> None:
        data = header(b"x", octal(0), b"x") * 20_000
        assert outcomes(read(data, "tar")) == [("", "truncated")]
        assert outcomes(read(data + bytes(1024), "tar")) == [("", "truncated")]

    def test_a_gzip_bomb_is_given_up(self) -> None:
        data = gzip.compress(b"".join(header(b"%d" % index, octal(512)) + bytes(512) for index in range(100)))
        members = read(data, "tar", SMALL)
        assert outcomes(members) == [(str(index), None) for index in range(19)] + [("", "read_error")]
        assert "bomb" in message(members[-1])

    def test_bytes_behind_the_end_mark_are_ignored(self) -> None:
        assert [member.name for member in read(tar_bytes(FILES) + b"garbage" * 300, "tar")] == [
            name for name, _ in FILES
        ]

    def test_members_are_streamed(self) -> None:
        members = iterate_members(io.BytesIO(tar_bytes([("a", b"1")]) + b"\0" * 5120), "tar", limits=LIMITS)
        assert next(members).name == "a"


class TestZip:
    def test_encrypted_and_unsupported_members_fail_alone(self) -> None:
        data = bytearray(zip_bytes([("1", b"1"), ("2", b"2"), ("3", b"3")]))
        directory = data.find(b"PK\1\2")
        data[directory + 8] |= 1
        second = data.find(b"PK\1\2", directory + 1)
        data[second + 10] = 9
        members = read(bytes(data), "zip")
        assert outcomes(members) == [("1", "read_error"), ("2", "read_error"), ("3", None)]
        assert "encrypted" in message(members[0])
        assert "deflate64" in message(members[1])

    def test_lzma_is_named_as_unsupported(self) -> None:
        (member,) = read(zip_bytes([("1", b"1")], compression=zipfile.ZIP_LZMA), "zip")
        assert "lzma" in message(member)

    def test_links_are_not_followed(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            info = zipfile.ZipInfo("link.jpg")
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
        (member,) = read(buffer.getvalue(), "zip")
        assert "symbolic link" in message(member)

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_a_flipped_byte_fails_its_member_alone(self, compression: int) -> None:
        files = [(str(index), random.Random(index).randbytes(2000)) for index in range(3)]
        data = bytearray(zip_bytes(files, compression=compression))
        data[data.find(b"PK\3\4", 100) + 1000] ^= 0x10
        assert outcomes(read(bytes(data), "zip")) == [("0", None), ("1", "read_error"), ("2", None)]

    @pytest.mark.parametrize("cut", [10, 100, 2000])
    def test_without_its_directory_there_is_one_row(self, cut: int) -> None:
        data = zip_bytes([(str(index), random.Random(index).randbytes(2000)) for index in range(3)])
        assert outcomes(read(data[:-cut], "zip")) == [("", "read_error")]

    def test_a_damaged_directory_ends_with_one_row(self) -> None:
        data = bytearray(zip_bytes(FILES))
        data[data.find(b"PK\1\2", data.find(b"PK\1\2") + 1)] ^= 1
        assert outcomes(read(bytes(data), "zip")) == [("ann/1.jpg", None), ("", "read_error")]

    def test_a_false_count_is_noticed(self) -> None:
        data = bytearray(zip_bytes(FILES))
        data[data.rfind(b"PK\5\6") + 10 : data.rfind(b"PK\5\6") + 12] = struct.pack("<H", 65000)
        members = read(bytes(data), "zip")
        assert outcomes(members) == [(name, None) for name, _ in FILES] + [("", "read_error")]
        assert "65000" in message(members[-1])

    def test_ten_million_claimed_entries_are_not_believed(self) -> None:
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10_000_000, 10_000_000, 0, 0)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        assert outcomes(read(end64 + locator + end, "zip")) == [("", "read_error")]

    def test_zip64_records_and_comments_are_read(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.comment = b"PK and more"
            with archive.open("a/1.jpg", "w", force_zip64=True) as file:
                file.write(b"1")
        assert read(buffer.getvalue(), "zip") == [Member("a/1.jpg", b"1", "a")]

    def test_zip64_directory_values_win(self) -> None:
        # One stored member whose sizes and offset stand in the zip64 extra field, and a zip64 end record.
        local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, zlib.crc32(b"1"), 1, 1, 1, 0) + b"n" + b"1"
        extra = struct.pack("<2H3Q", 1, 24, 1, 1, 0)
        unset = 0xFFFFFFFF
        central = struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, zlib.crc32(b"1"), unset, unset, 1, 28, 0, 0, 0, 0, unset
        )
        central += b"n" + extra
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(central), len(local))
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(local) + len(central), 1)
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, unset, unset, 0)
        assert read(local + central + end64 + locator + end, "zip") == [Member("n", b"1")]

    def test_more_than_65535_entries(self) -> None:
        data = zip_bytes([(f"{index}", b"") for index in range(65_600)], compression=zipfile.ZIP_STORED)
        members = read(data, "zip")
        assert len(members) == 65_600
        assert members[-1].name == "65599"
        end64, end = data.rfind(b"PK\6\6"), data.rfind(b"PK\5\6")
        length, offset = struct.unpack("<2Q", data[end64 + 40 : end64 + 56])
        wrapped = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 64, 64, length, offset, 0)
        assert end > end64 > 0
        assert read(data[:end64] + wrapped, "zip") == members

    def test_overlapping_members_are_given_up(self) -> None:
        """Directory entries that all point to one kernel, as in D. Fifield, "A better zip bomb", 2019."""
        data = zip_bytes([("kernel", bytes(900))])
        start, end = data.find(b"PK\1\2"), data.rfind(b"PK\5\6")
        central = data[start:end] * 3000
        stop = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 3000, 3000, len(central), start, 0)
        members = read(data[:start] + central + stop, "zip", SMALL)
        assert len(members) == 3000
        assert sum(member.data is not None for member in members) == 1
        assert "overlaps" in message(members[-1])

    def test_what_unpacks_to_too_much_is_given_up(self) -> None:
        data = zip_bytes([(str(index), bytes(1000)) for index in range(50)], compression=zipfile.ZIP_BZIP2)
        limits = ReadLimits(max_expansion=2, free_expansion_bytes=10_000)
        members = read(data, "zip", limits)
        num_read = sum(member.data is not None for member in members)
        assert len(members) == 50
        assert 10 <= num_read < 20
        assert "bomb" in message(members[-1])

    def test_a_member_larger_than_it_says_fails(self) -> None:
        data = bytearray(zip_bytes([("1", bytes(1000))]))
        data[data.find(b"PK\1\2") + 24 : data.find(b"PK\1\2") + 28] = struct.pack("<I", 999)
        assert outcomes(read(bytes(data), "zip")) == [("1", "read_error")]

    @pytest.mark.parametrize(
        ("raw", "flags", "name"),
        [
            (b"caf\x82/1.jpg", 0, "café/1.jpg"),  # code page 437
            ("café/1.jpg".encode(), 0, "café/1.jpg"),
            ("café/1.jpg".encode(), 0x800, "café/1.jpg"),
            (b"caf\x82/1.jpg", 0x800, "caf\\x82/1.jpg"),
            (b"cafe\\1.jpg", 0, "cafe/1.jpg"),
        ],
    )
    def test_encodings_of_names(self, raw: bytes, flags: int, name: str) -> None:
        data = bytearray(zip_bytes([("x" * len(raw), b"1")]).replace(b"x" * len(raw), raw))
        data[data.find(b"PK\1\2") + 8 : data.find(b"PK\1\2") + 10] = struct.pack("<H", flags)
        assert read(bytes(data), "zip") == [Member(name, b"1", name.split("/")[0])]


class TestParquet:
    def hugging_face_table(self) -> pa.Table:
        image = pa.array(
            [{"bytes": b"1", "path": "1.jpg"}, {"bytes": b"", "path": None}, {"bytes": None, "path": "3.jpg"}, None],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        features = {"label": {"names": ["ann", "bob"], "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        return pa.table({"image": image, "label": [1, 0, -1, None]}).replace_schema_metadata(metadata)

    def test_hugging_face_struct_and_class_names(self) -> None:
        members = read(parquet_bytes(self.hugging_face_table()), "parquet")
        assert outcomes(members) == [
            ("00000000/1.jpg", None),
            ("00000001", "empty"),
            ("00000002/3.jpg", "read_error"),
            ("00000003", "read_error"),
        ]
        assert [member.label for member in members] == ["bob", "ann", None, None]
        assert members[0].data == b"1"

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            (pa.array([7, None]), ["7", None]),
            (pa.array(["ann", None]), ["ann", None]),
            (pa.array(["ann", None], pa.large_string()), ["ann", None]),
            (pa.array(["ann", None]).dictionary_encode(), ["ann", None]),
            (pa.array([[1], None]), [None, None]),
        ],
    )
    def test_label_types(self, labels: pa.Array, expected: list[str | None]) -> None:
        table = pa.table({"jpg": pa.array([b"1", b"2"], pa.large_binary()), "label": labels})
        assert [member.label for member in read(parquet_bytes(table), "parquet")] == expected

    def test_columns_by_choice_and_by_default(self) -> None:
        table = pa.table({"webp": [b"w"], "png": [b"p"], "mine": [b"m"], "who": ["ann"], "image": ["a path"]})
        data = parquet_bytes(table)
        assert read(data, "parquet") == [Member("00000000", b"p")]
        assert read(data, "parquet", image_column="mine", label_column="who") == [Member("00000000", b"m", "ann")]

    @pytest.mark.parametrize("options", [{"image_column": "photo"}, {"image_column": "text"}, {"label_column": "who"}])
    def test_missing_columns_are_named(self, options: dict[str, str]) -> None:
        data = parquet_bytes(pa.table({"image": [b"1"], "text": ["t"]}))
        (member,) = read(data, "parquet", **options)
        assert outcomes([member]) == [("", "read_error")]
        assert next(iter(options.values())) in message(member)
        assert "image, text" in message(member)

    def test_a_table_without_images_says_so(self) -> None:
        (member,) = read(parquet_bytes(pa.table({"text": ["t"]})), "parquet")
        assert outcomes([member]) == [("", "read_error")]

    def test_a_damaged_row_group_gets_one_row_and_the_next_is_read(self) -> None:
        rows = [random.Random(row).randbytes(1000) for row in range(9)]
        data = bytearray(
            parquet_bytes(pa.table({"image": rows}), row_group_size=3, use_dictionary=False, write_page_checksum=True)
        )
        data[data.find(rows[4]) + 10] ^= 1
        members = read(bytes(data), "parquet")
        expected = [f"{row:08d}" for row in (0, 1, 2)], [f"{row:08d}" for row in (6, 7, 8)]
        assert [member.name for member in members] == [*expected[0], "row_group_1", *expected[1]]
        assert outcomes(members)[3] == ("row_group_1", "read_error")

    def test_a_truncated_file_gets_one_row(self) -> None:
        assert outcomes(read(PACKED["parquet"][1][:-20], "parquet")) == [("", "read_error")]

    def test_a_dictionary_bomb_is_given_up(self) -> None:
        """200 rows that repeat one picture of 900 bytes, and a million nulls."""
        pictures = pa.DictionaryArray.from_arrays(pa.array([0] * 200), pa.array([bytes(900)]))
        data = parquet_bytes(pa.table({"image": pictures}), store_schema=False)
        members = read(data, "parquet", SMALL)
        assert 20 <= len(members) < 70  # SMALL allows 20,000 bytes; the budget is at most three times that
        assert outcomes(members)[-1] == ("row_group_0", "read_error")
        nulls = parquet_bytes(pa.table({"image": pa.nulls(1_000_000, pa.binary())}))
        assert outcomes(read(nulls, "parquet", SMALL))[-1] == ("row_group_0", "read_error")

    def test_what_unpacks_to_too_much_is_not_read(self) -> None:
        data = parquet_bytes(pa.table({"image": [bytes(900) for _ in range(100)]}), use_dictionary=False)
        assert outcomes(read(data, "parquet", SMALL)) == [("row_group_0", "read_error")]

    def test_a_large_row_group_is_read_in_pieces(self) -> None:
        rows = [random.Random(row).randbytes(1_000_000) for row in range(80)]
        file = RecordingFile(parquet_bytes(pa.table({"image": rows}), write_batch_size=4))
        assert sum(len(member.data or b"") for member in iterate_members(file, "parquet", limits=LIMITS)) == 80_000_000
        assert 1_000_000 < file.largest_read < 10_000_000

    def test_a_dictionary_is_not_multiplied_into_memory(self) -> None:
        """1,000 rows that repeat one picture of 4 MB."""
        pictures = pa.DictionaryArray.from_arrays(pa.array([0] * 1000), pa.array([bytes(4_000_000)]))
        data = parquet_bytes(pa.table({"image": pictures}), store_schema=False)
        before = pa.total_allocated_bytes()
        peak = 0
        for count, member in enumerate(iterate_members(io.BytesIO(data), "parquet", limits=LIMITS)):
            assert member.data is not None
            peak = max(peak, pa.total_allocated_bytes() - before)
            if count == 20:
                break
        assert peak < 100_000_000


class TestRanges:
    @given(
        files=st.lists(
            st.tuples(
                st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=150), st.binary(max_size=1500)
            ),
            max_size=12,
            unique_by=lambda file: file[0],
        ),
        target_bytes=st.integers(1, 5000),
        packing=st.sampled_from(["ustar-like", "pax", "gnu", "zip", "parquet"]),
        cut=st.one_of(st.just(0), st.integers(0, 2000)),
    )
    def test_all_ranges_together_are_the_whole(self, files: Files, target_bytes: int, packing: str, cut: int) -> None:
        kind: ShardKind = "tar"
        if packing == "zip":
            kind, data = "zip", zip_bytes(files)
        elif packing == "parquet":
            kind, data = "parquet", parquet_bytes(files_table(files), row_group_size=2)
        else:
            data = tar_bytes(files, tar_format=tarfile.GNU_FORMAT if packing == "gnu" else tarfile.PAX_FORMAT)
        data = data[: len(data) - cut]
        ranges = split_shard(io.BytesIO(data), kind, target_bytes)
        assert ranges
        parts = [read(data, kind, start=part.start, stop=part.stop) for part in ranges]
        assert [member for part in parts for member in part] == read(data, kind)

    def test_only_the_last_range_reports_a_damaged_directory(self) -> None:
        """The fuzz found it: a range that ended before entries that are no inputs met the damage behind them."""
        data = bytearray(zip_bytes([("1.jpg", b"1"), ("2.json", b"2"), ("3.json", b"3"), ("4.jpg", b"4")]))
        data[data.rfind(b"PK\1\2")] ^= 1
        ranges = split_shard(io.BytesIO(data), "zip", 1)
        parts = [outcomes(read(bytes(data), "zip", start=part.start, stop=part.stop)) for part in ranges]
        assert parts == [[("1.jpg", None)], [], [("", "read_error")]]

    @pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
    def test_ranges_have_about_the_wanted_size(self, kind: ShardKind) -> None:
        files = [(f"{index:03d}.jpg", random.Random(index).randbytes(10_000)) for index in range(100)]
        pack = {
            "tar": tar_bytes,
            "zip": zip_bytes,
            "parquet": lambda files: parquet_bytes(files_table(files), row_group_size=2),
        }
        data = pack[kind](files)
        ranges = split_shard(io.BytesIO(data), kind, 100_000)
        assert 8 <= len(ranges) <= 10
        assert all(100_000 <= part.num_bytes <= 130_000 for part in ranges[:-1])
        assert all(first.stop == second.start for first, second in pairwise(ranges))
        assert sum(part.num_bytes for part in ranges) == pytest.approx(len(data), rel=0.03)

    def test_a_gzipped_tar_stays_whole(self) -> None:
        data = PACKED["tar.gz"][1]
        assert split_shard(io.BytesIO(data), "tar", 1) == [(0, len(data), len(data))]


class RecordingFile(io.BytesIO):
    largest_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.largest_read = max(self.largest_read, len(data))
        return data


class FailingFile(io.BytesIO):
    """A connection that breaks behind `limit` bytes."""

    def __init__(self, data: bytes, limit: int) -> None:
        super().__init__(data)
        self.limit = limit

    def read(self, size: int | None = -1) -> bytes:
        self.limit -= len(self.getvalue()) if size in (None, -1) else size
        if self.limit < 0:
            raise ConnectionResetError("the store hung up")
        return super().read(size)


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
@pytest.mark.parametrize("limit", [0, 150_000])
def test_errors_of_the_file_itself_pass_through(kind: ShardKind, limit: int) -> None:
    files = [(f"{index:03d}.jpg", random.Random(index).randbytes(10_000)) for index in range(100)]
    pack = {
        "tar": tar_bytes,
        "zip": zip_bytes,
        "parquet": lambda files: parquet_bytes(files_table(files), row_group_size=10),
    }
    with pytest.raises(ConnectionResetError, match="hung up"):
        list(iterate_members(FailingFile(pack[kind](files), limit), kind, limits=LIMITS))


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
def test_memory_does_not_grow_with_the_archive(kind: ShardKind) -> None:
    peaks = []
    for num_files in (100, 400):
        files = [(f"{index:03d}.jpg", random.Random(index).randbytes(100_000)) for index in range(num_files)]
        pack = {
            "tar": tar_bytes,
            "zip": zip_bytes,
            "parquet": lambda files: parquet_bytes(files_table(files), row_group_size=50),
        }
        file = io.BytesIO(pack[kind](files))
        del files
        tracemalloc.start()
        peak_arrow = num_members = 0
        try:
            for _ in iterate_members(file, kind, limits=LIMITS):
                num_members += 1
                peak_arrow = max(peak_arrow, pa.total_allocated_bytes())
            peaks.append(tracemalloc.get_traced_memory()[1] + peak_arrow)
        finally:
            tracemalloc.stop()
        assert num_members == num_files
    assert peaks[1] < 1.1 * peaks[0] + 500_000
