"""Exports read back by the libraries of their users, or by what their formats' definitions say."""

from __future__ import annotations

import csv
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SPLITS = ("train", "validation", "test")
# torchvision/datasets/folder.py
_IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_MAGIC = 0xCED7230A


class Loaded(NamedTuple):
    """One face as a trainer gets it; `index` is its class as the format's readers number it."""

    face_id: str
    content: bytes
    index: int
    face: dict[str, Any]


def load(folder: Path, format: str, split: str) -> list[Loaded]:
    """All faces of a split."""
    return list(_READERS[format](folder, split))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _webdataset(folder: Path, split: str) -> Iterator[Loaded]:
    import webdataset

    shards = [str(path) for path in sorted(folder.glob(f"{split}-*.tar"))]
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        face = json.loads(sample["json"])
        yield Loaded(face["face_id"], sample.get("jpg") or sample["png"], int(sample["cls"]), face)


def find_classes(root: Path) -> dict[str, int]:
    """The classes of a folder by torchvision's rule: its sorted folders."""
    return {
        name: index for index, name in enumerate(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    }


def _imagefolder(folder: Path, split: str) -> Iterator[Loaded]:
    """By the rules of torchvision.datasets.ImageFolder: files of known extensions below each class's folder."""
    rows = {row["path"]: row for row in read_csv(folder / f"{split}.csv")}
    for name, index in find_classes(folder / split).items():
        paths = [path for path in sorted((folder / split / name).rglob("*")) if path.suffix in _IMAGE_EXTENSIONS]
        assert paths, "ImageFolder refuses a class without a file"
        for path in paths:
            row = rows.pop(str(path.relative_to(folder)))
            yield Loaded(row["face_id"], path.read_bytes(), index, row)
    assert not rows


def _hf(folder: Path, split: str) -> Iterator[Loaded]:
    datasets = pytest.importorskip("datasets")
    cache = folder.parent / f"{folder.name}-cache"
    loaded = datasets.load_dataset(str(folder), split=split, cache_dir=str(cache))
    assert isinstance(loaded.features["image"], datasets.Image)
    for row in loaded.cast_column("image", datasets.Image(decode=False)):
        yield Loaded(row["face_id"], row["image"]["bytes"], row["label"], row)


def _tfrecord(folder: Path, split: str) -> Iterator[Loaded]:
    tfrecord = pytest.importorskip("tfrecord")
    for path in sorted(folder.glob(f"{split}-*.tfrecord")):
        for features in tfrecord.tfrecord_loader(str(path), None):
            yield Loaded(
                features["face/face_id"].decode(),
                features["image/encoded"],
                int(features["image/class/label"][0]),
                features,
            )


def read_recordio(path: Path) -> dict[int, bytes]:
    """Offset and data of each record, after dmlc-core/include/dmlc/recordio.h."""
    data = path.read_bytes()
    records: dict[int, bytes] = {}
    parts: list[bytes] = []
    at = start = 0
    while at < len(data):
        magic, word = struct.unpack_from("<II", data, at)
        assert magic == _MAGIC
        flag, length = word >> 29, word & ((1 << 29) - 1)
        parts.append(data[at + 8 : at + 8 + length])
        at += 8 + (length + 3) // 4 * 4
        if flag in (0, 3):
            records[start] = struct.pack("<I", _MAGIC).join(parts)
            parts, start = [], at
    assert not parts
    return records


def unpack_image_record(data: bytes) -> tuple[list[float], int, bytes]:
    """Labels, id and content, after IRHeader of mxnet/recordio.py."""
    flag, label, number, _ = struct.unpack_from("<IfQQ", data)
    labels = struct.unpack_from(f"<{flag}f", data, 24)
    return list(labels) or [label], number, data[24 + 4 * flag :]


def read_indexed(folder: Path) -> dict[int, bytes]:
    """The records by the numbers of train.idx."""
    records = read_recordio(folder / "train.rec")
    lines = [line.split("\t") for line in (folder / "train.idx").read_text().splitlines()]
    assert len(lines) == len(records)
    return {int(key): records[int(offset)] for key, offset in lines}


def _recordio(folder: Path, split: str) -> Iterator[Loaded]:
    """As MXFaceDataset of insightface/recognition/arcface_torch/dataset.py reads it."""
    records = read_indexed(folder if split == "train" else folder / split)
    rows = {int(row["record"]): row for row in read_csv(folder / f"{split}.csv")}
    labels, _, content = unpack_image_record(records[0])
    keys = list(records) if content else range(1, int(labels[0]))
    assert set(keys) == set(rows)
    for key in keys:
        (label, *_), number, content = unpack_image_record(records[key])
        assert number == key
        yield Loaded(rows[key]["face_id"], content, int(label), rows[key])


def _lmdb(folder: Path, split: str) -> Iterator[Loaded]:
    import lmdb

    with (
        lmdb.open(str(folder / f"{split}.lmdb"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        number = int(transaction.get(b"num-samples"))
        assert transaction.stat()["entries"] == 3 * number + 1
        for index in range(number):
            face = json.loads(transaction.get(f"face-{index:09d}".encode()))
            content = transaction.get(f"image-{index:09d}".encode())
            yield Loaded(face["face_id"], content, int(transaction.get(f"label-{index:09d}".encode())), face)


def _csv(folder: Path, split: str) -> Iterator[Loaded]:
    for row in read_csv(folder / f"{split}.csv"):
        yield Loaded(row["face_id"], (folder / row["path"]).read_bytes(), int(row["class"]), dict(row))


_READERS: dict[str, Callable[[Path, str], Iterator[Loaded]]] = {
    "webdataset": _webdataset,
    "imagefolder": _imagefolder,
    "hf": _hf,
    "tfrecord": _tfrecord,
    "recordio": _recordio,
    "lmdb": _lmdb,
    "csv": _csv,
}
FORMATS = tuple(_READERS)
COUNTED_PER_SPLIT = ("imagefolder",)  # whose readers number the classes of each split from 0
