"""Damaged shards: every reader ends, yields members only, keeps within its bounds, and its ranges make up the whole.

`FACEMILL_FUZZ_CASES` sets the number of cases for each reader.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import resource
import sys
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facemill.models.errors import FAILURE_REASONS
from facemill.transforms.ops import recordio, tfrecord
from facemill.transforms.ops.kinds import ShardKind
from facemill.transforms.ops.members import Member, ReadLimits
from facemill.transforms.ops.shards import iterate_members, split_shard
from facemill.transforms.ops.tf_example import encode_example

NUM_CASES = int(os.environ.get("FACEMILL_FUZZ_CASES", "500"))
LIMITS = ReadLimits(max_member_bytes=50_000, max_expansion=20, free_expansion_bytes=500_000)
MAX_TRACED_BYTES = 8 * 2**20  # chunks and headers are of constant size, a member is at most 50 kB
MAX_RESIDENT_GROWTH_MIB = 128
RECORDIO_MAGIC = b"\x0a\x23\xd7\xce"
TAR_TYPES = b"\x000123456789ASDKLMNVXgx"

FUZZ = settings(
    max_examples=NUM_CASES,
    deadline=None,
    database=None,
    derandomize="FACEMILL_FUZZ_CASES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
FILES = [
    (f"person{index % 3}/{'long' * (30 if index == 3 else 1)}/{index}é.jpg", random.Random(index).randbytes(size))
    for index, size in enumerate((0, 1, 100, 512, 513, 3000, 20_000, 60_000))
] + [("person1/blank.bmp", bytes(40_000)), ("person1/label.json", b"{}"), (".hidden", b"?")]
PICTURES = FILES[:9]


def tar_seed(tar_format: int, *, special: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE) if special else ():
            info = tarfile.TarInfo("special")
            info.type, info.linkname = kind, "target" * 30
            tar.addfile(info)
        for name, data in FILES:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_seed(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.comment = b"comment"
        for name, data in FILES:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            with archive.open(info, "w", force_zip64=len(data) == 512) as file:
                file.write(data)
    return buffer.getvalue()


def parquet_seed(*, hugging_face: bool, **options: object) -> bytes:
    contents = [data for _, data in FILES[:7]] + [None]
    names = [name for name, _ in FILES[:8]]
    images = (
        pa.array([{"bytes": data, "path": name} for data, name in zip(contents, names, strict=True)])
        if hugging_face
        else pa.array(contents, pa.binary())
    )
    table = pa.table({"image": images, "label": names if hugging_face else list(range(8)), "other": [1.5] * 8})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=3, **options)
    return buffer.getvalue()


def tfrecord_seed(key: str) -> bytes:
    return b"".join(
        tfrecord.frame_record(encode_example({key: data, "label": [7], "image/filename": name.encode(), "x": [0.5]}))
        for name, data in PICTURES
    )


def recordio_seed() -> bytes:
    """With the records that InsightFace keeps on identities."""
    index = [recordio.pack_header([1.0, 5.0], id=number) for number in range(2)]
    images = [recordio.pack_header([1.0, 0.0], id=number) + data for number, (_, data) in enumerate(PICTURES)]
    return b"".join(recordio.frame_record(data) for data in [*index, *images])


TARS = [tar_seed(tarfile.USTAR_FORMAT), tar_seed(tarfile.GNU_FORMAT, special=True), tar_seed(tarfile.PAX_FORMAT)]
ZIPS = [zip_seed(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)]
PARQUETS = [
    parquet_seed(hugging_face=True),
    parquet_seed(hugging_face=False, compression="zstd", write_page_checksum=True),
    parquet_seed(hugging_face=True, compression="none", use_dictionary=False, data_page_version="2.0"),
]
TFRECORDS = [tfrecord_seed("image/encoded"), tfrecord_seed("bytes")]
RECORDIO = recordio_seed() + recordio.frame_record(bytes(40) + RECORDIO_MAGIC * 3 + b"in several parts")

places = st.floats(0, 1, exclude_max=True)
payloads = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from(
        [
            b"\0" * 8,
            b"\xff" * 8,
            b"\x80" + b"\xff" * 11,
            b"\x7f\xff\xff\xff",
            b"PK\1\2",
            b"PK\5\6",
            b"\0" * 600,
            b"\x0a\x23\xd7\xce",
        ]
    ),
)
edits = st.lists(
    st.tuples(st.sampled_from(["flip", "write", "insert", "cut", "remove", "copy", "end"]), places, places, payloads),
    min_size=1,
    max_size=6,
)
some_edits = st.one_of(st.just([]), edits)


def edited(data: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    """Applies the changes; `end` writes into the last kilobyte, where zip and Parquet keep what they hang on."""
    result = bytearray(data)
    for what, first, second, payload in changes:
        at, other = int(first * len(result)), int(second * len(result))
        if what == "end":
            at = max(0, len(result) - 1 - int(first * 1024))
        if what == "flip" and result:
            result[at] ^= payload[0]
        elif what in ("write", "end"):
            result[at : at + len(payload)] = payload
        elif what == "insert":
            result[at:at] = payload
        elif what == "cut":
            del result[max(at, len(result) // 2) :]
        elif what == "remove":
            del result[at : at + int(second * 600)]
        elif what == "copy":
            result[at : at + 512] = result[other : other + 512]
    return bytes(result)


def with_header_edits(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Overwrites fields of tar headers and mends the checksum, without which a reader would look no further."""
    result = bytearray(data)
    starts = [start for start in range(0, len(data) - 511, 512) if data[start + 257 : start + 262] == b"ustar"]
    for place, field, payload in changes:
        block = bytearray(result[(start := starts[int(place * len(starts))]) : start + 512])
        block[field : field + len(payload)] = payload
        del block[512:]
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
        result[start : start + 512] = block
    return bytes(result)


def read(data: bytes, kind: ShardKind, start: int = 0, stop: int | None = None) -> list[Member]:
    return list(iterate_members(io.BytesIO(data), kind, limits=LIMITS, start=start, stop=stop))


def check(data: bytes, kind: ShardKind, *, target_bytes: int) -> None:
    members = read(data, kind)
    for member in members:
        member.name.encode()
        assert (member.data is None) == (member.failure is not None)
        assert member.failure is None or member.failure.reason in FAILURE_REASONS
        assert member.data is None or 0 < len(member.data) <= LIMITS.max_member_bytes
    names = [member.name for member in members]
    assert len(set(names)) == len(names)
    assert "" not in names[:-1]
    ranges = split_shard(io.BytesIO(data), kind, target_bytes)
    assert [member for part in ranges for member in read(data, kind, part.start, part.stop)] == members


def peak_resident_mib() -> float:
    """The process's peak so far; the system counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def check_traced(data: bytes, kind: ShardKind, *, target_bytes: int) -> None:
    tracemalloc.start()
    try:
        check(data, kind, target_bytes=target_bytes)
        assert tracemalloc.get_traced_memory()[1] < MAX_TRACED_BYTES + 4 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "seeds"),
    [("tar", TARS), ("zip", ZIPS), ("parquet", PARQUETS), ("tfrecord", TFRECORDS), ("recordio", [recordio_seed()])],
)
def test_the_undamaged_seeds_are_read(kind: ShardKind, seeds: list[bytes]) -> None:
    for data in seeds:
        good = [member.data for member in read(data, kind) if member.data is not None]
        expected = [
            data for name, data in FILES if 0 < len(data) <= 50_000 and "json" not in name and "hid" not in name
        ]
        assert good == expected[: 6 if kind == "parquet" else None]
        check_traced(data, kind, target_bytes=10_000)


@FUZZ
@given(
    seed=st.sampled_from(range(len(TARS))),
    fields=st.lists(
        st.tuples(
            places,
            st.sampled_from([0, 100, 124, 156, 257, 345, 482]),
            st.one_of(payloads, st.sampled_from([bytes([kind]) for kind in TAR_TYPES])),
        ),
        max_size=4,
    ),
    changes=some_edits,
    target_bytes=st.integers(1, 50_000),
)
def test_damaged_tar(seed: int, fields: list, changes: list, target_bytes: int) -> None:  # type: ignore[type-arg]
    check_traced(edited(with_header_edits(TARS[seed], fields), changes), "tar", target_bytes=target_bytes)


@FUZZ
@given(seed=st.sampled_from(range(len(TARS))), inner=some_edits, changes=some_edits)
def test_damaged_tar_gz(seed: int, inner: list, changes: list) -> None:  # type: ignore[type-arg]
    check_traced(edited(gzip.compress(edited(TARS[seed], inner), 1), changes), "tar", target_bytes=10_000)


@FUZZ
@given(seed=st.sampled_from(range(len(ZIPS))), changes=edits, target_bytes=st.integers(1, 50_000))
def test_damaged_zip(seed: int, changes: list, target_bytes: int) -> None:  # type: ignore[type-arg]
    check_traced(edited(ZIPS[seed], changes), "zip", target_bytes=target_bytes)


@FUZZ
@given(seed=st.sampled_from(range(len(PARQUETS))), changes=edits, target_bytes=st.integers(1, 50_000))
def test_damaged_parquet(seed: int, changes: list, target_bytes: int) -> None:  # type: ignore[type-arg]
    peak_before = peak_resident_mib()
    check(edited(PARQUETS[seed], changes), "parquet", target_bytes=target_bytes)
    assert peak_resident_mib() - peak_before < MAX_RESIDENT_GROWTH_MIB


@FUZZ
@given(seed=st.sampled_from(range(len(TFRECORDS))), changes=edits, target_bytes=st.integers(1, 50_000))
def test_damaged_tfrecord(seed: int, changes: list, target_bytes: int) -> None:  # type: ignore[type-arg]
    check_traced(edited(TFRECORDS[seed], changes), "tfrecord", target_bytes=target_bytes)


@FUZZ
@given(changes=some_edits, examples=st.lists(edits, min_size=1, max_size=3))
def test_damaged_examples_in_sound_records(changes: list, examples: list) -> None:  # type: ignore[type-arg]
    example = encode_example({"image": FILES[4][1], "label": [7], "image/filename": b"x.jpg", "x": [0.5, 1.5]})
    records = b"".join(tfrecord.frame_record(edited(example, edits_of_one)) for edits_of_one in examples)
    check_traced(edited(gzip.compress(records, 1), changes), "tfrecord", target_bytes=10_000)


@FUZZ
@given(changes=edits, target_bytes=st.integers(500, 50_000))
def test_damaged_recordio(changes: list, target_bytes: int) -> None:  # type: ignore[type-arg]
    check_traced(edited(RECORDIO, changes), "recordio", target_bytes=target_bytes)
