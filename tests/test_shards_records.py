"""TFRecord and RecordIO shards: which records are images, what they are called, and what damage costs."""

from __future__ import annotations

import gzip
import io
import random
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import portrait

from facemill.transforms.ops import recordio, tfrecord
from facemill.transforms.ops.kinds import ShardKind, shard_kind
from facemill.transforms.ops.members import Member, ReadLimits
from facemill.transforms.ops.reading import LabelRule, ReadOptions, read_unit
from facemill.transforms.ops.shards import iterate_members, split_shard
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tf_example import FeatureValues, encode_example
from facemill.transforms.ops.units import Unit

LIMITS = ReadLimits()
JPEG, OTHER_JPEG, PNG = portrait(0), portrait(1), b"\x89PNG\r\n\x1a\n" + bytes(60)


def tfrecord_bytes(*examples: dict[str, FeatureValues]) -> bytes:
    return b"".join(tfrecord.frame_record(encode_example(example)) for example in examples)


def image_record(label: Any, number: int, image: bytes) -> bytes:
    return recordio.frame_record(recordio.pack_header(label, id=number) + image)


def read(data: bytes, kind: ShardKind, limits: ReadLimits = LIMITS, **options: Any) -> list[Member]:
    return list(iterate_members(io.BytesIO(data), kind, limits=limits, **options))


def outcomes(members: list[Member]) -> list[tuple[str, str | None]]:
    assert all((member.data is None) == (member.failure is not None) for member in members)
    return [(member.name, member.failure.reason if member.failure else None) for member in members]


def only(example: dict[str, FeatureValues], **options: Any) -> Member:
    (member,) = read(tfrecord_bytes(example), "tfrecord", **options)
    return member


@pytest.mark.parametrize(
    ("example", "image"),
    [
        ({"image/encoded": JPEG, "image/format": b"jpeg", "image/object/bbox/xmin": [0.5]}, JPEG),
        ({"image_raw": PNG, "jpg": JPEG}, PNG),  # in this order
        ({"image": [JPEG, OTHER_JPEG]}, JPEG),
        ({"image": b"a/1.jpg", "jpeg": JPEG}, JPEG),  # the usual name, but no image
        ({"a": b"text", "b": [1, 2], "c": PNG, "d": JPEG}, PNG),  # no usual name
        ({"image/encoded": b"unknown format", "a": [1]}, b"unknown format"),
        ({"image/encoded": [], "data": JPEG}, JPEG),
    ],
)
def test_the_image_is_found_by_name_and_by_content(example: dict[str, FeatureValues], image: bytes) -> None:
    assert only(example).data == image


@pytest.mark.parametrize(
    ("example", "label"),
    [
        ({}, None),
        ({"label": [7]}, "7"),
        ({"label": [-1]}, "-1"),
        ({"label": [3.0]}, "3"),
        ({"label": [0.25]}, "0.25"),
        ({"label": [float("nan")], "identity": b"ann"}, "ann"),
        ({"label": [float("inf")]}, None),
        ({"label": "Ann Lee, é".encode()}, "Ann Lee, é"),
        ({"label": b"\xff"}, "\\xff"),
        ({"image/class/label": [3], "label": [4], "image/class/text": b"ann"}, "ann"),
        ({"image/class/label": [3], "label": [4]}, "3"),
        ({"image/class/label": [3], "image/class/text": []}, "3"),
        ({"image/class/label": [3], "image/class/text": b""}, "3"),
        ({"image/class/label": [-1], "image/class/text": b""}, None),
        ({"image/class/label": [-1], "identity": b"ann"}, "ann"),
        ({"image/class/label": [3], "image/class/text": b"", "face/label": b""}, ""),
    ],
)
def test_the_label_is_found_by_name(example: dict[str, FeatureValues], label: str | None) -> None:
    assert only({"image": JPEG, **example}).label == label


def test_features_by_choice() -> None:
    example = {"image": JPEG, "thumbnail": OTHER_JPEG, "label": [1], "person": b"ann"}
    member = only(example, image_column="thumbnail", label_column="person")
    assert (member.data, member.label) == (OTHER_JPEG, "ann")
    assert only({**example, "person": []}, label_column="person").label is None


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        ({"a": [1], "b": b"text"}, {}, "no feature holds an image, features are: a, b; name one with --set"),
        ({}, {}, "no feature holds an image, there are no features"),
        ({"image": JPEG}, {"image_column": "x"}, "no feature 'x' of bytes, features are: image"),
        ({"image": JPEG}, {"label_column": "x"}, "no feature 'x', features are: image"),
    ],
)
def test_a_record_without_the_feature_is_told(
    example: dict[str, FeatureValues], options: dict[str, str], message: str
) -> None:
    member = only(example, **options)
    assert member.failure is not None
    assert member.failure.reason == "read_error"
    assert message in member.failure.message


def test_tfrecord_members_are_named_by_offset_and_file_name() -> None:
    first = {"image": JPEG, "image/filename": b"ann/1.jpg"}
    data = tfrecord_bytes(first, {"image": b""}, {"image": JPEG, "name": b"x" * 5000}) + tfrecord.frame_record(b"\xff")
    second = len(tfrecord_bytes(first))
    members = read(data, "tfrecord")
    assert outcomes(members[:2]) == [("000000000000/ann/1.jpg", None), (f"{second:012d}", "empty")]
    assert members[2].name == f"{second + len(tfrecord_bytes({'image': b''})):012d}/{'x' * 1000}"
    assert outcomes(members[3:]) == [(f"{len(data) - 17:012d}", "read_error")]
    assert members == read(gzip.compress(data), "tfrecord")


INSIGHTFACE = b"".join(
    [
        image_record([5.0, 7.0], 0, b""),  # ids 5 and 6 are identities
        image_record([0.0, 1.0], 1, JPEG),
        image_record(0.0, 2, OTHER_JPEG),
        image_record(1.0, 3, PNG),
        image_record(1.0, 4, b""),
        image_record([1.0, 3.0], 5, b""),  # identity 0 has the images 1 and 2
        image_record([3.0, 5.0], 6, b""),
    ]
)


def test_insightface_records_are_images_with_labels() -> None:
    members = read(INSIGHTFACE, "recordio")
    assert [member.data for member in members] == [JPEG, OTHER_JPEG, PNG, None]
    assert [member.label for member in members] == ["0", "0", "1", "1"]
    offsets = [40, 40 + 40 + len(JPEG) + -len(JPEG) % 4]
    assert [member.name for member in members][:2] == [f"{offsets[0]:012d}/1", f"{offsets[1]:012d}/2"]
    assert [reason for _, reason in outcomes(members)] == [None, None, None, "empty"]


@pytest.mark.parametrize(
    ("label", "text"),
    [(3.0, "3"), (-1.0, "-1"), (0.1, "0.100000001"), (float("nan"), None), (float("inf"), None), ([2.5, 9.0], "2.5")],
)
def test_recordio_labels(label: Any, text: str | None) -> None:
    (member,) = read(image_record(label, 1, JPEG), "recordio")
    assert member.label == text


@pytest.mark.parametrize("label", [[0.0, 1.0], [2.0, 1.0], [1.5, 2.0], [1.0], [1.0, 2.0, 3.0], [1.0, float("inf")]])
def test_an_image_without_bytes_is_no_identity(label: list[float]) -> None:
    assert [reason for _, reason in outcomes(read(image_record(label, 1, b""), "recordio"))] == ["empty"]


def test_a_record_without_mxnets_header_is_told() -> None:
    members = read(recordio.frame_record(b"short") + image_record(1.0, 1, JPEG), "recordio")
    assert [reason for _, reason in outcomes(members)] == ["read_error", None]


@pytest.mark.parametrize("kind", ["tfrecord", "recordio"])
@pytest.mark.parametrize("size", [1, 100, 511, 5000])
def test_what_is_no_such_file_gets_one_row(kind: ShardKind, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert outcomes(read(data, kind)) == [("", "read_error")]
    (whole,) = split_shard(io.BytesIO(data), kind, 10**6)
    assert outcomes(read(data, kind, start=whole.start, stop=whole.stop)) == [("", "read_error")]
    assert outcomes(read(b"", kind)) == [("", "empty")]
    assert len(split_shard(io.BytesIO(b""), kind, 10)) == 1


@pytest.mark.parametrize("kind", ["tfrecord", "recordio"])
def test_a_cut_file_keeps_what_came_before(kind: ShardKind) -> None:
    data = tfrecord_bytes({"image": JPEG}, {"image": PNG}) if kind == "tfrecord" else INSIGHTFACE[:-80]
    found = outcomes(read(data[:-60], kind))
    assert found[-1] == ("", "truncated")
    assert len(found) == (2 if kind == "tfrecord" else 3)


contents = st.lists(
    st.one_of(st.binary(max_size=300), st.lists(st.sampled_from([b"\x0a\x23\xd7\xce", b"ab", b"\0"])).map(b"".join)),
    max_size=12,
)


@pytest.mark.parametrize("kind", ["tfrecord", "recordio"])
@given(images=contents, target_bytes=st.integers(1, 3000), cut=st.one_of(st.just(0), st.integers(0, 500)))
def test_all_ranges_together_are_the_whole(kind: ShardKind, images: list[bytes], target_bytes: int, cut: int) -> None:
    if kind == "tfrecord":
        data = tfrecord_bytes(*({"image": image, "label": [index]} for index, image in enumerate(images)))
    else:
        data = b"".join(image_record(float(index), index, image) for index, image in enumerate(images))
    data = data[: len(data) - cut]
    whole = read(data, kind)
    assert cut or len(whole) == max(1, len(images))
    ranges = split_shard(io.BytesIO(data), kind, target_bytes)
    assert [m for part in ranges for m in read(data, kind, start=part.start, stop=part.stop)] == whole


@pytest.mark.parametrize("kind", ["tfrecord", "recordio"])
def test_ranges_have_about_the_wanted_size(kind: ShardKind) -> None:
    images = [random.Random(index).randbytes(10_000) for index in range(100)]
    if kind == "tfrecord":
        data = tfrecord_bytes(*({"image": image} for image in images))
    else:
        data = b"".join(image_record(1.0, index, image) for index, image in enumerate(images))
    ranges = split_shard(io.BytesIO(data), kind, 100_000)
    assert 8 <= len(ranges) <= 11
    assert all(100_000 <= part.num_bytes <= 130_000 for part in ranges[:-1])
    assert all(first.stop == second.start for first, second in pairwise(ranges))
    assert sum(part.num_bytes for part in ranges) == len(data)


def test_a_gzipped_tfrecord_stays_whole() -> None:
    data = gzip.compress(tfrecord_bytes(*[{"image": JPEG}] * 9))
    assert split_shard(io.BytesIO(data), "tfrecord", 1) == [(0, len(data), len(data))]


def test_recordio_is_split_without_being_read() -> None:
    class Unread(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("read")

    assert len(split_shard(Unread(bytes(1000)), "recordio", 100)) == 9


class BreakingFile(io.BytesIO):
    """A connection that breaks behind some reads."""

    def __init__(self, data: bytes, num_reads: int) -> None:
        super().__init__(data)
        self.num_reads = num_reads

    def read(self, size: int | None = -1) -> bytes:
        self.num_reads -= 1
        if self.num_reads < 0:
            raise ConnectionResetError("the store hung up")
        return super().read(size)


@pytest.mark.parametrize("kind", ["tfrecord", "recordio"])
@pytest.mark.parametrize("num_reads", [0, 1, 5])
def test_errors_of_the_file_itself_pass_through(kind: ShardKind, num_reads: int) -> None:
    data = tfrecord_bytes(*[{"image": JPEG}] * 9) if kind == "tfrecord" else INSIGHTFACE
    with pytest.raises(ConnectionResetError, match="hung up"):
        list(iterate_members(BreakingFile(data, num_reads), kind, limits=LIMITS))


def test_ids_of_any_size_are_names() -> None:
    record = recordio.frame_record(struct.pack("<IfQQ", 0, 1.0, 2**64 - 1, 0) + JPEG)
    assert read(record, "recordio")[0].name == "000000000000/18446744073709551615"


@pytest.mark.parametrize(
    ("rule", "tfrecord_label", "recordio_label"),
    [("auto", "7", "1"), ("column", "7", "1"), ("folder", "ann", None), ("none", None, None)],
)
def test_the_label_goes_by_the_rule(
    rule: LabelRule, tfrecord_label: str | None, recordio_label: str | None, tmp_path: Path
) -> None:
    (tmp_path / "x.tfrecord").write_bytes(tfrecord_bytes({"image": JPEG, "path": b"ann/1.jpg", "label": [7]}))
    (tmp_path / "x.rec").write_bytes(image_record(1.0, 5, JPEG))
    expected = {"tfrecord": ("in/x.tfrecord/000000000000/ann/1.jpg", tfrecord_label)}
    expected["recordio"] = ("in/x.rec/000000000000/5", recordio_label)
    for kind, ending in (("tfrecord", "tfrecord"), ("recordio", "rec")):
        unit = Unit("unit-000000", shard_kind(f"x.{ending}") or "files", (f"in/x.{ending}",), (1,), 1)
        (record,) = read_unit(unit, {"in": Folder(str(tmp_path))}, ReadOptions(label=rule))
        assert (record.image_id, record.label) == expected[kind]
        assert record.data == JPEG
