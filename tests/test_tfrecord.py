"""TFRecord framing and `tf.train.Example` against Beam's writer, the protobuf library, and published checksums."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
from pathlib import Path
from typing import Any

import apache_beam as beam
import google_crc32c
import pytest
from apache_beam.io.filesystem import CompressionTypes
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import ReadLimits, StoredRecord
from facemill.transforms.ops.tf_example import encode_example, example_features, feature_values
from facemill.transforms.ops.tfrecord import frame_record, iterate_records, record_offsets

LIMITS = ReadLimits()
DATA = [b"first", b"", random.Random(1).randbytes(70_000), b"\0" * 3000, b"last"]
FILE = b"".join(frame_record(data) for data in DATA)
STARTS = [0, 21, 37, 70_053, 73_069]  # 16 bytes around each


def decode_example(data: bytes) -> dict[str, list[bytes | int | float]]:
    return {name: list(feature_values(feature)) for name, feature in example_features(data).items()}


def read(data: bytes, limits: ReadLimits = LIMITS, **bounds: int) -> list[StoredRecord]:
    return list(iterate_records(io.BytesIO(data), limits, **bounds))


def outcomes(records: list[StoredRecord]) -> list[tuple[int, bytes | str | None]]:
    return [(record.offset, record.failure.reason if record.failure else record.data) for record in records]


def test_a_record_by_hand() -> None:
    # CRC-32C of 32 zero bytes is 8a9136aa (RFC 3720, B.4). Turned right by 15 bits that is 6d551522, and with
    # a282ead8 added 10fd7fffa, of which 32 bits stay.
    assert frame_record(bytes(32))[8 + 4 + 32 :] == bytes.fromhex("faffd70f")
    assert frame_record(bytes(32))[:8] == b"\x20" + bytes(7)


@pytest.mark.parametrize("compression", [CompressionTypes.UNCOMPRESSED, CompressionTypes.GZIP])
def test_reads_what_beam_writes(compression: str, tmp_path: Path) -> None:
    with beam.Pipeline(runner="DirectRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(DATA, reshuffle=False)
            | beam.io.WriteToTFRecord(str(tmp_path / "x"), num_shards=1, compression_type=compression)
        )
    (path,) = tmp_path.iterdir()
    with path.open("rb") as file:
        assert sorted(record.data or b"" for record in iterate_records(file, LIMITS)) == sorted(DATA)


def test_beam_reads_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(FILE)
    with beam.Pipeline(runner="DirectRunner") as pipeline:
        (
            pipeline
            | beam.io.ReadFromTFRecord(str(tmp_path / "x"))
            | beam.Map(lambda data: (tmp_path / f"{len(data)}.out").write_bytes(data))
        )
    assert sorted(path.read_bytes() for path in tmp_path.glob("*.out")) == sorted(DATA)


def test_offsets_and_ranges() -> None:
    assert outcomes(read(FILE)) == list(zip(STARTS, DATA, strict=True))
    assert list(record_offsets(io.BytesIO(FILE))) == STARTS
    assert outcomes(read(FILE, start=37, stop=73_069)) == [(37, DATA[2]), (70_053, DATA[3])]


def test_damaged_data_cost_their_record() -> None:
    damaged = bytearray(FILE)
    damaged[37 + 500] ^= 1
    assert outcomes(read(bytes(damaged)))[2] == (37, "read_error")
    assert [o for o in outcomes(read(bytes(damaged))) if o[1] != "read_error"] == [
        pair for pair in zip(STARTS, DATA, strict=True) if pair[0] != 37
    ]


@pytest.mark.parametrize("at", range(12))
def test_behind_a_damaged_length_the_next_record_is_found(at: int) -> None:
    damaged = bytearray(FILE)
    damaged[37 + at] ^= 0x10
    expected = [(start, "read_error" if start == 37 else data) for start, data in zip(STARTS, DATA, strict=True)]
    assert outcomes(read(bytes(damaged))) == expected
    assert list(record_offsets(io.BytesIO(damaged))) == STARTS


def test_inserted_and_missing_bytes_cost_what_they_hit() -> None:
    assert outcomes(read(FILE[:37] + b"junk" * 30_000 + FILE[37:]))[2:4] == [(37, "read_error"), (120_037, DATA[2])]
    missing = outcomes(read(FILE[:1000] + FILE[1100:]))  # the length leads into the record behind
    assert [data for _, data in missing] == [*DATA[:2], "read_error", "read_error", DATA[4]]


@pytest.mark.parametrize(
    ("data", "reason", "before"),
    [
        (b"", "empty", 0),
        (b"x", "read_error", 0),
        (random.Random(2).randbytes(200_000), "read_error", 0),
        (bytes(200_000), "read_error", 0),
        (FILE[:36], "truncated", 1),
        (FILE[:43], "truncated", 2),
        (FILE[:60_000], "truncated", 2),
        (FILE[:-1], "truncated", 4),
        (FILE + b"and text that is no record", "read_error", 5),
        (gzip.compress(FILE)[:-20], "truncated", 4),
        (gzip.compress(FILE) + b"\x1e" + gzip.compress(FILE)[1:], "read_error", 5),
        (gzip.compress(FILE) + bytes(9) + b"text", "read_error", 5),
        (gzip.compress(FILE + b"and text that is no record"), "read_error", 5),
    ],
)
def test_what_is_wrong_from_some_byte_on_is_raised_there(data: bytes, reason: str, before: int) -> None:
    records: list[StoredRecord] = []
    with pytest.raises(BadInputError) as caught:
        records.extend(iterate_records(io.BytesIO(data), LIMITS))  # keeps what came before
    assert caught.value.reason == reason
    assert [record.data for record in records] == DATA[:before]


def test_a_length_may_begin_like_gzip() -> None:
    data = bytes(0x8B1F)
    assert [record.data for record in read(frame_record(data))] == [data]


def test_a_large_record_is_not_read() -> None:
    large = frame_record(bytes(50_000_000)) + frame_record(b"next")
    tracemalloc.start()
    try:
        found = outcomes(read(large, ReadLimits(max_member_bytes=1000)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 + len(large)  # BytesIO shares the bytes
    finally:
        tracemalloc.stop()
    assert found == [(0, "too_large"), (50_000_016, b"next")]


def test_a_claimed_length_is_not_believed() -> None:
    length = (2**62).to_bytes(8, "little")
    crc = google_crc32c.value(length)
    masked = ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
    data = frame_record(b"good") + length + masked.to_bytes(4, "little") + b"no more"
    records: list[StoredRecord] = []
    with pytest.raises(BadInputError, match="cut short within the record at byte 20"):
        records.extend(iterate_records(io.BytesIO(data), LIMITS))
    assert outcomes(records) == [(0, b"good"), (20, "too_large")]


def test_a_bomb_is_given_up() -> None:
    bomb = gzip.compress(frame_record(bytes(1000)) * 20_000)
    with pytest.raises(BadInputError, match="a decompression bomb"):
        read(bomb, ReadLimits(max_expansion=10, free_expansion_bytes=1_000_000))


def example_class() -> Any:
    """`tf.train.Example` as tensorflow/core/example/{feature,example}.proto define it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    repeated, optional = 3, 1
    for name, kind in (("BytesList", 12), ("FloatList", 2), ("Int64List", 3)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=repeated)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), 1):
        field_name = f"{name.removesuffix('List').lower()}_list"
        type_name = f".tensorflow.{name}"
        feature.field.add(name=field_name, number=number, type=11, label=optional, type_name=type_name, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=optional)
    entry.field.add(name="value", number=2, type=11, label=optional, type_name=".tensorflow.Feature")
    entry_name = ".tensorflow.Features.FeatureEntry"
    features.field.add(name="feature", number=1, type=11, label=repeated, type_name=entry_name)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=11, label=optional, type_name=".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = example_class()
int64s = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    st.lists(int64s, min_size=1, max_size=40),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_examples_are_those_of_protobuf(features: dict[str, list[Any]]) -> None:
    theirs = Example.FromString(encode_example(features)).features.feature
    assert sorted(theirs) == sorted(features)
    for name, expected in features.items():
        assert list(getattr(theirs[name], theirs[name].WhichOneof("kind")).value) == expected
    assert decode_example(encode_example(features)) == features


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_examples_of_protobuf_are_read(features: dict[str, list[Any]]) -> None:
    example = Example()
    for name, items in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(items[0])]
        getattr(example.features.feature[name], kind).value.extend(items)
    assert decode_example(example.SerializeToString()) == features


def test_single_values_and_numpy_numbers() -> None:
    import numpy as np

    features = {"a": b"x", "b": [np.int64(-3)], "c": [np.float32(0.5), 1], "d": []}
    assert decode_example(encode_example(features)) == {"a": [b"x"], "b": [-3], "c": [0.5, 1.0], "d": []}


def test_unpacked_numbers_and_unknown_fields_are_read() -> None:
    # Int64List {1: 5, 1: 300} and FloatList {1: 1.5} with every number on its own; field 9 is none of the Example's.
    ints = bytes.fromhex("1a05 0805 08ac02")
    floats = bytes.fromhex("1205 0d0000c03f")

    def entry(name: bytes, feature: bytes) -> bytes:
        content = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(feature)]) + feature
        return b"\x0a" + bytes([len(content)]) + content

    features = entry(b"i", ints) + b"\x48\x01" + entry(b"f", floats)
    assert decode_example(b"\x0a" + bytes([len(features)]) + features) == {"i": [5, 300], "f": [1.5]}


def test_the_encoding_does_not_depend_on_the_order_of_the_features() -> None:
    assert encode_example({"a": [1], "b": [2]}) == encode_example({"b": [2], "a": [1]})


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05", b"\x0b", b"\x0a\x04\x0a\x02\x12\x01" + b"\x12", b"\x80" * 11])
def test_what_is_no_example_is_told(data: bytes) -> None:
    with pytest.raises(BadInputError, match=r"not a tf\.train\.Example, or damaged"):
        decode_example(data)


@given(st.binary(max_size=60))
def test_damaged_examples_end(data: bytes) -> None:
    try:
        decode_example(data)
    except BadInputError as error:
        assert error.reason == "read_error"


def test_an_example_of_very_many_features_is_refused() -> None:
    with pytest.raises(BadInputError, match="more than 10000 features"):
        decode_example(encode_example({str(number): [1] for number in range(10_001)}))
