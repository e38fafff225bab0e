"""Labels that lie beside the images of a tar, as WebDataset has them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
import webdataset

from facemill.transforms.ops.members import ReadLimits
from facemill.transforms.ops.reading import LabelRule, ReadOptions, read_unit
from facemill.transforms.ops.records import Failure
from facemill.transforms.ops.shards import iterate_members, split_shard
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tar_samples import sample_label
from facemill.transforms.ops.units import Unit

LIMITS = ReadLimits()


def tar_bytes(files: Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def own_labels(data: bytes, **options: str) -> list[tuple[str, str | None]]:
    members = iterate_members(io.BytesIO(data), "tar", limits=LIMITS, **options)  # type: ignore[arg-type]
    return [(member.name, member.own_label) for member in members]


@pytest.mark.parametrize(
    ("content", "label_column", "label"),
    [
        ({"cls": b"12"}, None, "12"),
        ({"cls": b" ann\n"}, None, "ann"),
        ({"cls": b""}, None, None),
        ({"json": b'{"label": "ann"}', "cls": b"12"}, None, "ann"),
        ({"json": b'{"identity": "ann"}', "cls": b"12"}, None, "ann"),
        ({"json": b'{"label": 7, "identity": "ann"}'}, None, "7"),
        ({"json": b'{"label": 7.0}'}, None, "7"),
        ({"json": b'{"label": 0.25}'}, None, "0.25"),
        ({"json": b'{"label": NaN}', "cls": b"12"}, None, None),
        ({"json": b'{"label": -Infinity}'}, None, None),
        ({"json": b'{"label": ""}'}, None, ""),
        ({"json": b'{"label": null, "class": -1}', "cls": b"-1"}, None, None),
        ({"json": b'{"label": ["a", "b"]}', "cls": b"12"}, None, "12"),
        ({"json": b'{"label": "\\ud800"}'}, None, "\\ud800"),
        ({"json": b'{"caption": "a man"}'}, None, None),
        ({"json": b'{"who": "bob", "label": "ann"}', "cls": b"12"}, "who", "bob"),
        ({"json": b'{"label": "ann"}', "cls": b"12"}, "who", None),
        ({"json": b"[1]", "cls": b"12"}, None, "12"),
        ({"json": b"{", "cls": b"12"}, None, "12"),
        ({"json": b"[" * 100_000, "cls": b"12"}, None, "12"),
        ({"json": b"\xff\xfe", "cls": b"\xff"}, None, "\\xff"),
    ],
)
def test_what_files_beside_an_image_say(content: dict[str, bytes], label_column: str | None, label: str | None) -> None:
    assert sample_label(content, label_column) == label


def test_shards_of_the_library_webdataset() -> None:
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer) as writer:
        for number in range(5):
            writer.write({"__key__": f"{number:03d}", "jpg": b"image", "cls": number % 2, "json": {"url": "x"}})
    expected = [(f"{number:03d}.jpg", str(number % 2)) for number in range(5)]
    assert own_labels(buffer.getvalue()) == own_labels(gzip.compress(buffer.getvalue())) == expected


def test_a_sample_ends_where_the_name_before_its_first_dot_changes() -> None:
    files = [
        ("a/1.cls", b"before"),
        ("a/1.left.jpg", b"x"),
        ("a/1.right.jpg", b"x"),
        ("a/1.jpg", b""),
        ("a/2.jpg", b"x"),
        ("b/2.cls", b"of another folder"),
        ("3.jpg", b"x"),
        ("._3.jpg", b"left by a Mac"),
        ("3.CLS", b"behind"),
        ("3.jpg", b"again"),
        ("4", b"without a dot"),
    ]
    assert own_labels(tar_bytes(files)) == [
        ("a/1.left.jpg", "before"),
        ("a/1.right.jpg", "before"),
        ("a/1.jpg", "before"),
        ("a/2.jpg", None),
        ("3.jpg", "behind"),
        ("3.jpg~2", None),
        ("4", None),
    ]


def test_what_a_sample_holds_is_there_when_the_tar_is_cut() -> None:
    data = tar_bytes([("1.cls", b"ann"), ("1.jpg", b"x"), ("1.json", b"y" * 2000)])
    members = list(iterate_members(io.BytesIO(data[:3000]), "tar", limits=LIMITS))
    assert [(member.name, member.own_label) for member in members] == [("1.jpg", "ann"), ("", None)]
    assert members[1].failure is not None and members[1].failure.reason == "truncated"


def test_a_label_that_is_cut_is_none() -> None:
    data = tar_bytes([("1.jpg", b"x"), ("1.cls", b"123456")])
    cut = 512 + 512 + 512 + 2  # within the label, behind two headers and the image
    members = list(iterate_members(io.BytesIO(data[:cut]), "tar", limits=LIMITS))
    assert [(member.name, member.own_label) for member in members] == [("1.jpg", None), ("", None)]
    assert members[1].failure is not None and members[1].failure.reason == "truncated"


def test_no_sample_is_cut_into_two_ranges() -> None:
    files = [(f"{n:03d}.{ending}", b"7" * 600) for n in range(50) for ending in ("jpg", "cls", "txt")]
    data = tar_bytes(files)
    ranges = split_shard(io.BytesIO(data), "tar", 700)
    assert len(ranges) == 50
    parts = [
        (member.name, member.own_label)
        for part in ranges
        for member in iterate_members(io.BytesIO(data), "tar", limits=LIMITS, start=part.start, stop=part.stop)
    ]
    assert parts == own_labels(data) == [(f"{number:03d}.jpg", "7" * 600) for number in range(50)]


@pytest.mark.parametrize(("num_files", "num_bytes", "num_held"), [(40, 1_500_000, 12), (2000, 10_000, 33)])
def test_names_with_dates_do_not_gather_in_memory(num_files: int, num_bytes: int, num_held: int) -> None:
    data = tar_bytes([(f"2024.05.{number:04d}.jpg", bytes(num_bytes)) for number in range(num_files)])
    file = io.BytesIO(data)
    tracemalloc.start()
    try:
        assert sum(1 for _ in iterate_members(file, "tar", limits=LIMITS)) == num_files
        assert tracemalloc.get_traced_memory()[1] < num_held * num_bytes + 500_000
    finally:
        tracemalloc.stop()
    assert len(split_shard(io.BytesIO(data), "tar", num_bytes)) >= num_files // 32


def test_a_large_image_keeps_its_label() -> None:
    files = [("1.cls", b"ann"), ("1.jpg", bytes(20 << 20)), ("1.json", b'{"label": "bob"}')]
    assert own_labels(tar_bytes(files)) == [("1.jpg", "bob")]
    files = [("1.jpg", bytes(2 << 20)), ("1.npy", bytes(15 << 20)), ("1.json", b'{"label": "bob"}')]
    assert own_labels(tar_bytes(files)) == [("1.jpg", "bob")]


def test_an_image_with_too_long_a_label_fails_with_a_word(tmp_path: Path) -> None:
    files = [("1.jpg", b"x"), ("1.cls", b"a" * 10_000), ("2.jpg", b"x"), ("2.cls", b"a" * 10_001)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    unit = Unit("u", "tar", ("in/x.tar",), (1,), 1)
    longest, too_long = read_unit(unit, {"in": Folder(str(tmp_path))}, ReadOptions())
    assert (longest.label, longest.data, longest.failure) == ("a" * 10_000, b"x", None)
    message = "the label has 10,001 characters, the limit is 10,000"
    assert (too_long.label, too_long.data, too_long.failure) == (None, None, Failure("read_error", message))


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("auto", ["7", "ann"]),
        ("column", ["7", None]),
        ("folder", ["ann", "ann"]),
        ("none", [None, None]),
    ],
)
def test_the_label_goes_by_the_rule(rule: LabelRule, labels: list[str | None], tmp_path: Path) -> None:
    files = [("ann/1.jpg", b"x"), ("ann/1.cls", b"7"), ("ann/2.jpg", b"x"), ("ann/2.json", json.dumps({}).encode())]
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    unit = Unit("u", "tar", ("in/x.tar",), (1,), 1)
    records = list(read_unit(unit, {"in": Folder(str(tmp_path))}, ReadOptions(label=rule)))
    assert [record.label for record in records] == labels
