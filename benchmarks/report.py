"""Measures the report of a made-up output of a million inputs and as many faces.

    python benchmarks/report.py [--images N] [--units N] [--keep FOLDER]

Every unit is a tar shard of its own; the shards are links to one file, and so are the tars of crops, so that the
pictures on the page are read as they would be from a real archive. The report is made by the command, as its user
would, in a process that has one core.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from workload import FACEMILL, load_pictures

from facemill.pipeline.config import load_config
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.plan import append_units, read_plan
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import crops_name, faces_name, images_name, marker_name
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.verdict import VERDICT_REASONS

MAX_SECONDS = 30
MAX_PAGE_BYTES = 5_000_000
MAX_MEMORY_MB = 1000
PICTURE_WH = (256, 192)
NUM_IDENTITIES = 50_000
_FAILURES = ("decode_error", "truncated", "unsupported_format", "too_large")
_POINTS = np.array([0.3, 0.4, 0.7, 0.4, 0.5, 0.6, 0.35, 0.8, 0.65, 0.8])  # of a box's sides
_MB = 1e6
_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Parse, make the output, measure, report."""
    parser = argparse.ArgumentParser(description="Measure the report of a large output.")
    parser.add_argument("--images", type=int, default=1_000_000, help="inputs, and faces (default: %(default)s)")
    parser.add_argument("--units", type=int, default=1_000, help="units, a shard each (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave archive and output there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        if not (folder / "out" / "manifest.json").exists():
            make_output(folder, num_images=arguments.images, num_units=arguments.units)
        _report(folder / "out", arguments.images)


def make_output(folder: Path, *, num_images: int, num_units: int) -> None:
    """An archive of `num_units` shards, and the output of a run over it, both made up."""
    per_unit = num_images // num_units
    pictures = load_pictures(None, size_wh=PICTURE_WH)
    _pack(folder / "shard.tar", pictures, [f"person_{i % 50}/{i:06d}.jpg" for i in range(per_unit)])
    _pack(folder / "crops.tar", [_small(picture) for picture in pictures], _crop_names(per_unit))
    output = Folder(str(folder / "out"))
    for name in ("archive", "out/images", "out/faces", "out/crops"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    units = []
    for number in range(num_units):
        shard = f"{number:05d}.tar"
        (folder / "archive" / shard).hardlink_to(folder / "shard.tar")
        size = (folder / "archive" / shard).stat().st_size
        units.append(Unit(f"unit-{number:06d}", "tar", (f"archive/{shard}",), (size,), size))
        _write_unit(output, units[-1], number, per_unit)
        Path(output.join(crops_name(units[-1].name, "tar"))).hardlink_to(folder / "crops.tar")
    append_units(output, read_plan(output), units)
    make_manifest(load_config(), {"archive": (folder / "archive").as_uri()}).write(output)


def _crop_names(per_unit: int) -> list[str]:
    return [f"crop-{i:06d}-00.jpg" for i in range(per_unit)]


def _pack(path: Path, pictures: list[bytes], names: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(pictures[number % len(pictures)])
            tar.addfile(member, io.BytesIO(pictures[number % len(pictures)]))


def _small(picture: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).resize((112, 112)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _write_unit(output: Folder, unit: Unit, number: int, per_unit: int) -> None:
    """One face in nine of ten images; of the faces, four of five are kept."""
    random = np.random.default_rng(number)
    names = [f"person_{i % 50}/{i:06d}.jpg" for i in range(per_unit)]
    image_ids = np.array([f"{unit.sources[0]}/{name}" for name in names])
    labels = np.array([f"person {identity}" for identity in random.integers(0, NUM_IDENTITIES, per_unit)])
    kind = random.random(per_unit)
    failed, has_face, kept = kind < 0.02, kind >= 0.1, kind >= 0.28
    failures = np.where(failed, np.array(_FAILURES)[random.choice(4, per_unit, p=[0.6, 0.3, 0.09, 0.01])], None)
    verdicts = np.array(VERDICT_REASONS)[random.integers(0, len(VERDICT_REASONS), per_unit)]
    reasons = np.where(has_face & ~kept, verdicts, None)
    statuses = np.select([failed, ~has_face, ~kept], ["failed", "no_face", "rejected"], "ok")
    images = {
        "image_id": image_ids,
        "unit": [unit.name] * per_unit,
        "source": [unit.sources[0]] * per_unit,
        "member": names,
        "sha256": [f"{number:032x}{i:032x}" for i in range(per_unit)],
        "format": np.where(failed, None, "JPEG"),
        "width": np.full(per_unit, PICTURE_WH[0]),
        "height": np.full(per_unit, PICTURE_WH[1]),
        "label": labels,
        "status": statuses,
        "reason": failures,
        "message": np.where(failed, "made up", None),
        "num_faces": has_face.astype(int),
        "num_kept": kept.astype(int),
    }
    _write(output, images_name(unit.name), IMAGES_SCHEMA, images, per_unit, random)
    count = int(has_face.sum())
    crops = np.where(kept, np.array(_crop_names(per_unit)), None)
    faces = {
        "face_id": np.char.add(image_ids[has_face], "#0"),
        "image_id": image_ids[has_face],
        "unit": [unit.name] * count,
        "face_index": np.zeros(count),
        **_boxes(random, count),
        "score": 1 - random.random(count) ** 4 * 0.3,
        **{f"{angle}_deg": random.normal(0, 12, count) for angle in ("yaw", "pitch", "roll")},
        "interocular_px": random.lognormal(3.6, 0.4, count),
        "kept": kept[has_face],
        "reason": reasons[has_face],
        "crop": crops[has_face],
        "label": labels[has_face],
    }
    _write(output, faces_name(unit.name), FACES_SCHEMA, faces, count, random)
    summary = UnitSummary(
        unit.name,
        "0" * 16,
        num_images=per_unit,
        num_faces=count,
        num_kept=int(kept.sum()),
        num_crops=int(kept.sum()),
        num_bytes=unit.num_bytes,
        seconds=round(float(random.lognormal(3, 0.2)), 3),
        statuses=dict(Counter(statuses.tolist())),
        failure_reasons=dict(Counter(failures[failed].tolist())),
        rejection_reasons=dict(Counter(reasons[has_face & ~kept].tolist())),
    )
    output.write_bytes(marker_name(unit.name), summary.to_json())


def _boxes(random: np.random.Generator, count: int) -> dict[str, Any]:
    side = random.uniform(40, 160, count)
    left, top = random.uniform(0, PICTURE_WH[0] - 160, count), random.uniform(0, PICTURE_WH[1] - 160, count)
    points = np.stack([left, top] * 5, axis=1) + _POINTS * side[:, None]
    landmarks = pa.ListArray.from_arrays(np.arange(0, 10 * count + 1, 10), points.ravel().astype(np.float32))
    return {"x1": left, "y1": top, "x2": left + side, "y2": top + side, "landmarks": landmarks}


def _write(
    output: Folder, name: str, schema: pa.Schema, columns: dict[str, Any], count: int, random: np.random.Generator
) -> None:
    """Write a table; columns that were not given are filled with noise, or null where they hold text."""
    arrays = []
    for field in schema:
        if field.name in columns:
            arrays.append(pa.array(columns[field.name]).cast(field.type))
        elif pa.types.is_floating(field.type):
            arrays.append(pa.array(random.random(count)).cast(field.type))
        else:
            arrays.append(pa.nulls(count, field.type))
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), output.join(name), compression="zstd")


def _report(output: Path, num_images: int) -> None:
    started_at = time.perf_counter()
    subprocess.run([*FACEMILL, "report", str(output)], check=True, preexec_fn=_take_one_core)
    seconds = time.perf_counter() - started_at
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    page = output / "report.html"
    sys.stdout.write(
        f"report of {num_images:,} inputs on one core: {seconds:.1f} s (under {MAX_SECONDS}), CPU "
        f"{usage.ru_utime + usage.ru_stime:.1f} s, peak memory {usage.ru_maxrss * _MAXRSS_UNIT_BYTES / _MB:.0f} MB "
        f"(under {MAX_MEMORY_MB}), page {page.stat().st_size / _MB:.2f} MB (under {MAX_PAGE_BYTES / _MB:.0f})\n"
    )


def _take_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
