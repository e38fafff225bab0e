"""Time and memory of `facemill filter` on made-up tables.

    python benchmarks/filtering.py [--faces N ...] [--units N] [--workers N]

The tables have random numbers in all columns, one picture for every two faces, and no pictures behind them. The command
runs in a process of its own, whose peak memory is stated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from workload import FACEMILL, peak_bytes

from facemill.pipeline.config import load_config, settle_accelerator
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.plan import append_units, read_plan
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import faces_name, images_name, marker_name
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_writer import TableWriter
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA
from facemill.transforms.ops.units import Unit

FACES_PER_IMAGE = 2
GROUP_ROWS = 4096
SETTINGS = ("judge.min_sharpness=1.1", "judge.max_mouth_occlusion=0.8", "judge.keep=largest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, nargs="+", default=[100_000, 1_000_000], help="default: %(default)s")
    parser.add_argument("--units", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="threads (default: %(default)s)")
    options = parser.parse_args()
    for num_faces in options.faces:
        with tempfile.TemporaryDirectory() as folder:
            make_tables(Folder(f"{folder}/out"), num_faces, options.units)
            seconds, peak = run_filter(Path(folder), options.workers)
        made_of = f"{num_faces:,} faces in {options.units:,} units, {options.workers} threads"
        print(f"{made_of}: {seconds:.1f} s, peak {peak / 1e6:.0f} MB")


def run_filter(folder: Path, num_workers: int) -> tuple[float, int]:
    """Wall seconds and peak resident bytes of the command."""
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = [*FACEMILL, "filter", str(folder / "out"), "--output", str(folder / "new"), *settings]
    started_at, peak = time.perf_counter(), 0
    with subprocess.Popen([*command, "--workers", str(num_workers)], stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, peak_bytes(watched))
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the command ended with {process.returncode}")
    return time.perf_counter() - started_at, peak


def make_tables(output: Folder, num_faces: int, num_units: int) -> None:
    config = settle_accelerator(load_config())
    make_manifest(config, {"photos": f"{output.uri}/photos"}).write(output)
    names = [f"unit-{number:06d}" for number in range(num_units)]
    append_units(output, read_plan(output), [Unit(name, "tar", (f"photos/{name}.tar",), (1,), 1) for name in names])
    rng = np.random.default_rng(0)
    for name in names:
        write_unit(output, name, num_faces // num_units // FACES_PER_IMAGE, rng, config.fingerprint)


def write_unit(output: Folder, unit: str, num_images: int, rng: np.random.Generator, fingerprint: str) -> None:
    metadata = {"facemill": '{"schema_version": 0}'}
    tables = [
        TableWriter(output, name, schema, group_rows=0, compression="zstd", metadata=metadata)
        for name, schema in ((images_name(unit), IMAGES_SCHEMA), (faces_name(unit), FACES_SCHEMA))
    ]
    for start in range(0, num_images, GROUP_ROWS // FACES_PER_IMAGE):
        numbers = np.arange(start, min(start + GROUP_ROWS // FACES_PER_IMAGE, num_images))
        tables[0].add_group(image_rows(unit, numbers))
        tables[1].add_group(face_rows(unit, numbers, rng))
    for table in tables:
        table.commit()
    num_faces = FACES_PER_IMAGE * num_images
    summary = UnitSummary(unit, fingerprint, num_images, num_faces, num_faces, num_faces, statuses={"ok": num_images})
    output.write_bytes(marker_name(unit), summary.to_json())


def image_rows(unit: str, numbers: np.ndarray) -> pa.Table:
    count = len(numbers)
    ids = [f"photos/{unit}.tar/{number:08d}.jpg" for number in numbers]
    columns = {"image_id": ids, "unit": [unit] * count, "source": [f"photos/{unit}.tar"] * count, "member": ids}
    columns |= {"width": [1000] * count, "height": [750] * count, "status": ["ok"] * count}
    columns |= {"num_faces": [FACES_PER_IMAGE] * count, "num_kept": [FACES_PER_IMAGE] * count}
    return complete(columns, count, IMAGES_SCHEMA)


def face_rows(unit: str, numbers: np.ndarray, rng: np.random.Generator) -> pa.Table:
    count = FACES_PER_IMAGE * len(numbers)
    ids = [f"photos/{unit}.tar/{number:08d}.jpg" for number in np.repeat(numbers, FACES_PER_IMAGE)]
    keys = [f"{unit}-{number:06d}-{face:02d}.jpg" for number in numbers for face in range(FACES_PER_IMAGE)]
    columns: dict[str, object] = {"face_id": keys, "image_id": ids, "unit": [unit] * count, "crop": keys}
    columns |= {
        field.name: rng.uniform(0, 2, count).astype(np.float32)
        for field in FACES_SCHEMA
        if pa.types.is_floating(field.type)
    }
    columns["landmarks"] = list(rng.uniform(0, 700, (count, 10)).astype(np.float32))
    columns |= {"face_index": [0, 1] * len(numbers), "kept": [True] * count}
    return complete(columns, count, FACES_SCHEMA)


def complete(columns: dict[str, object], count: int, schema: pa.Schema) -> pa.Table:
    return pa.table({name: columns.get(name, [None] * count) for name in schema.names}, schema=schema)


if __name__ == "__main__":
    main()
