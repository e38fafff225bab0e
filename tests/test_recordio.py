"""RecordIO framing against bytes written by hand after dmlc-core's recordio.h, and damaged files."""

from __future__ import annotations

import io
import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import ReadLimits, StoredRecord
from facemill.transforms.ops.recordio import frame_record, iterate_records, pack_header, unpack_header

LIMITS = ReadLimits()
MAGIC = bytes.fromhex("0a23d7ce")
DATA = [
    b"first!",
    b"",
    MAGIC,
    b"1234" + MAGIC + b"5678" + MAGIC + MAGIC + b"9",
    random.Random(1).randbytes(90_001),
    b"x",
]
FILE = b"".join(frame_record(data) for data in DATA)


def read(data: bytes, limits: ReadLimits = LIMITS, start: int = 0, stop: int | None = None) -> list[StoredRecord]:
    return list(iterate_records(io.BytesIO(data), limits, start=start, stop=stop))


def outcomes(records: list[StoredRecord]) -> list[bytes | str | None]:
    return [record.failure.reason if record.failure else record.data for record in records]


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b"", "0a23d7ce 00000000"),
        (b"abcd", "0a23d7ce 04000000 61626364"),
        (b"abcde", "0a23d7ce 05000000 61626364 65000000"),
        (MAGIC, "0a23d7ce 00000020  0a23d7ce 00000060"),  # cut in a first (1) and a last (3) part
        (b"abcd" + MAGIC + b"e", "0a23d7ce 04000020 61626364  0a23d7ce 01000060 65000000"),
        (MAGIC * 3, "0a23d7ce 00000020  0a23d7ce 00000040  0a23d7ce 00000040  0a23d7ce 00000060"),
        (b"ab" + MAGIC, "0a23d7ce 06000000 61620a23 d7ce0000"),  # not at a multiple of four
        (b"abcd" + MAGIC[:3], "0a23d7ce 07000000 61626364 0a23d700"),
    ],
)
def test_records_by_hand(data: bytes, stored: str) -> None:
    assert frame_record(data) == bytes.fromhex(stored)
    assert read(bytes.fromhex(stored)) == [StoredRecord(0, data)]


words = st.sampled_from([MAGIC, MAGIC[:3], b"a", b"\0\0\0\0", MAGIC[2:] + MAGIC[:2]])


@given(st.lists(st.lists(words, max_size=8).map(b"".join), min_size=1, max_size=5), st.data())
def test_ranges_of_any_bounds_make_up_the_whole(contents: list[bytes], data: st.DataObject) -> None:
    stored = b"".join(map(frame_record, contents))
    whole = read(stored)
    assert outcomes(whole) == contents
    bounds = sorted(data.draw(st.lists(st.integers(1, len(stored)), max_size=4)))
    edges = [0, *bounds, len(stored)]
    assert [r for a, b in itertools.pairwise(edges) for r in read(stored, start=a, stop=b) if a < b] == whole


def test_too_long_for_the_format() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 2**29

    with pytest.raises(ValueError, match="at most 536870911 bytes"):
        frame_record(Long())


def starts() -> list[int]:
    return [record.offset for record in read(FILE)]


def test_a_damaged_magic_costs_its_record() -> None:
    damaged = bytearray(FILE)
    damaged[starts()[4]] ^= 1
    assert outcomes(read(bytes(damaged))) == [*DATA[:4], "read_error", DATA[5]]
    assert read(bytes(damaged))[4].offset == starts()[4]


@pytest.mark.parametrize(
    ("byte", "bit"), [(4, 4), (4, 0x40), (5, 0x80), (6, 1), (7, 0x20), (7, 0x40), (7, 0x80), (7, 1)]
)
def test_a_damaged_length_or_flag_costs_its_record(byte: int, bit: int) -> None:
    for number in (0, 4):
        damaged = bytearray(FILE)
        damaged[starts()[number] + byte] ^= bit
        found = outcomes(read(bytes(damaged)))
        assert found[:number] + found[-5 + number :] == DATA[:number] + DATA[number + 1 :]
        assert "read_error" in found


@pytest.mark.parametrize("number", [0, 1, 3])  # of the fourth record; the third part is empty
def test_a_damaged_part_costs_its_record(number: int) -> None:
    record = bytearray(FILE[starts()[3] : starts()[4]])
    part = [at for at in range(0, len(record), 4) if record[at : at + 4] == MAGIC][number]
    del record[part : part + 8]
    damaged = FILE[: starts()[3]] + bytes(record) + FILE[starts()[4] :]
    assert outcomes(read(damaged)) == [*DATA[:3], "read_error", *DATA[4:]]


def test_unescaped_magic_is_damage_and_no_two_ranges_differ_on_it() -> None:
    # Some writers do not cut records; a reader that sets in at the inner magic must find what the whole reading does.
    inner = frame_record(b"inner")
    content = b"abcd" + inner + b"efgh"
    stored = MAGIC + struct.pack("<I", len(content)) + content + frame_record(b"next")
    whole = read(stored)
    assert outcomes(whole) == ["read_error", b"inner", "read_error", b"next"]
    for cut in range(1, len(stored)):
        assert read(stored, stop=cut) + read(stored, start=cut) == whole


def test_junk_between_records_is_told_once() -> None:
    at = starts()[5]
    assert outcomes(read(FILE[:at] + b"junk" * 30_000 + FILE[at:])) == [*DATA[:5], "read_error", DATA[5]]
    assert outcomes(read(b"junk" * 30_000 + FILE)) == ["read_error", *DATA]
    assert outcomes(read(FILE + b"junk")) == [*DATA, "read_error"]
    assert outcomes(read(FILE[:-10])) == [*DATA[:5], "read_error"]
    shifted = outcomes(read(FILE[:at] + b"ju" + FILE[at:]))  # what follows is no longer aligned
    assert shifted == [*DATA[:5], "read_error"]


@pytest.mark.parametrize(
    ("data", "reason", "before"),
    [
        (b"", "empty", 0),
        (b"x", "read_error", 0),
        (random.Random(2).randbytes(200_000), "read_error", 0),
        (MAGIC + b"\0\0\0\x80" + b"data", "read_error", 0),
        (FILE[:2], "read_error", 0),
        (FILE[:6], "truncated", 0),
        (FILE[:12], "truncated", 0),
        (frame_record(DATA[3])[:-20], "truncated", 0),
        (FILE[:-5], "truncated", 5),
        (FILE[:-8], "truncated", 5),
    ],
)
def test_what_is_wrong_from_some_byte_on_is_raised_there(data: bytes, reason: str, before: int) -> None:
    records: list[StoredRecord] = []
    with pytest.raises(BadInputError) as caught:
        records.extend(iterate_records(io.BytesIO(data), LIMITS))  # keeps what came before
    assert caught.value.reason == reason
    assert [record.data for record in records] == DATA[:before]


def test_padding_that_is_missing_at_the_end_is_no_loss() -> None:
    assert outcomes(read(FILE[:-3])) == DATA


def test_a_large_record_is_not_read() -> None:
    parts = frame_record(b"".join([bytes(600), MAGIC, bytes(600)]))
    limits = ReadLimits(max_member_bytes=1000)
    stored = frame_record(bytes(200_000)) + parts + frame_record(b"next")
    assert outcomes(read(stored, limits)) == ["too_large", "too_large", b"next"]
    assert outcomes(read(parts, ReadLimits(max_member_bytes=1204))) == [bytes(600) + MAGIC + bytes(600)]
    assert outcomes(read(parts, ReadLimits(max_member_bytes=1203))) == ["too_large"]


def test_image_headers_by_hand() -> None:
    one = struct.pack("<IfQQ", 0, 7.0, 12, 3)
    assert one.hex() == "000000000000e0400c000000000000000300000000000000"
    assert pack_header(7.0, id=12, id2=3) == one
    assert unpack_header(one + b"picture") == (((7.0,), 12, 3), b"picture")
    several = bytes.fromhex("02000000 00000000 0500000000000000 0000000000000000 00008040 0000803f")
    assert pack_header([4.0, 1.0], id=5) == several
    assert unpack_header(several + b"picture") == (((4.0, 1.0), 5, 0), b"picture")


@pytest.mark.parametrize("data", [b"", bytes(23), struct.pack("<IfQQ", 2, 0, 0, 0) + bytes(7), b"\xff" * 24])
def test_a_short_image_header_is_told(data: bytes) -> None:
    with pytest.raises(BadInputError, match="without the header that MXNet's image records have"):
        unpack_header(data)
