"""Real pictures for the tests, from installed packages, and archives made of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage
from PIL import Image

from facemill.transforms.ops import recordio, tfrecord
from facemill.transforms.ops.layout import FACES, IMAGES
from facemill.transforms.ops.tf_example import encode_example

_DATA = Path(skimage.__file__).parent / "data"


@lru_cache(maxsize=1)
def astronaut() -> np.ndarray:
    """(512, 512, 3) RGB: a portrait of Eileen Collins (NASA, public domain), the face at about 176-268, 64-176."""
    return np.asarray(Image.open(_DATA / "astronaut.png").convert("RGB"))


@lru_cache(maxsize=1)
def coffee() -> np.ndarray:
    """(400, 600, 3) RGB without a face."""
    return np.asarray(Image.open(_DATA / "coffee.png").convert("RGB"))


def jpeg(image: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


@lru_cache(maxsize=256)
def portrait(number: int) -> bytes:
    """A small JPEG with one frontal face; each number gives another picture."""
    shift = number % 24
    part = Image.fromarray(astronaut()[shift : 256 + shift, 100 + shift : 356 + shift])
    darker = np.asarray(part.resize((144, 144), Image.Resampling.LANCZOS)) * (1 - 0.002 * (number // 24 % 100))
    return jpeg(darker.astype(np.uint8))


@lru_cache(maxsize=8)
def scenery(number: int) -> bytes:
    """A small JPEG without a face."""
    return jpeg(coffee()[number : 144 + number, :144])


def archive(num_portraits: int) -> dict[str, bytes]:
    """Files by their path: portraits of some people, a scene, a file that is cut off, one that is no picture."""
    files = {f"person_{i % 3}/{i:04d}.jpg": portrait(i) for i in range(num_portraits)}
    return files | {
        "scenes/cup.jpg": scenery(0),
        "broken/cut.jpg": portrait(0)[:1500],
        "broken/text.jpg": b"this is no picture",
    }


def write_loose(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in sorted(files.items()):
            archive.writestr(name, data)
    return path


def write_parquet(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image": {"bytes": data, "path": name}, "label": name.split("/")[0]} for name, data in sorted(files.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=8)
    return path


def write_tfrecord(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    examples = [
        {"image/encoded": data, "image/filename": name.encode(), "label": name.split("/")[0].encode()}
        for name, data in sorted(files.items())
    ]
    path.write_bytes(b"".join(tfrecord.frame_record(encode_example(example)) for example in examples))
    return path


def write_recordio(path: Path, files: dict[str, bytes]) -> Path:
    """Labels are the places of the folders among all folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    people = sorted({name.split("/")[0] for name in files})
    records = [
        recordio.pack_header(float(people.index(name.split("/")[0])), id=number) + data
        for number, (name, data) in enumerate(sorted(files.items()))
    ]
    path.write_bytes(b"".join(map(recordio.frame_record, records)))
    return path


def read_table(output: Path, folder: str) -> list[dict[str, Any]]:
    """All rows of `images` or `faces`, sorted by their key."""
    key = {IMAGES: "image_id", FACES: "face_id"}[folder]
    tables = [pq.read_table(path) for path in sorted((output / folder).glob("*.parquet"))]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row[key])


def read_crops(output: Path) -> dict[str, bytes]:
    """Name and bytes of every crop in the tar shards."""
    crops = {}
    for path in sorted((output / "crops").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert member.name not in crops
                crops[member.name] = file.read()
    return crops
