"""Measures `facemill duplicates` on made-up tables: CPU seconds and peak memory of the whole process.

    python benchmarks/duplicates.py [--faces N] [--near-distance D] [--copies SHARE] [--films SHARE] [--black SHARE]

The hashes imitate those of faces: bits lean to one side and go along with each other, so that two faces differ in 119
of 256 on average, and agree in a band of 21 bits, but for two, about four times as often as by chance; of 7,507
photographs it is 120, and the same. Some of the faces are copies in which a few bits are turned, frames of films (a
thousand near each other), or black.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from workload import FACEMILL

from facemill.pipeline.config import load_config
from facemill.pipeline.manifest import make_manifest
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import faces_name, images_name, marker_name
from facemill.transforms.ops.perceptual_hash import HASH_BITS
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA

UNIT_FACES = 50_000
FILM_FRAMES = 1000
NUM_LABELS = 20_000
MAX_S, MAX_MB = 120, 1500
_NUM_FACTORS, _FACTOR_SHARE, _LEANING = 32, 0.5, 0.33
_COPY_FLIPS, _FRAME_FLIPS = 0.04, 0.03
_MB = 2**20


def main() -> None:
    """Make the tables, and print what the command took."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        hashes = skew(make_hashes(options.faces), copies=options.copies, films=options.films, black=options.black)
        write_tables(Folder(str(output)), hashes)
        command = [*FACEMILL, "duplicates", str(output), "--near-distance", str(options.near_distance)]
        started_at = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        wall_s = time.perf_counter() - started_at
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(done.stdout)
    sys.stdout.write(
        f"{options.faces:,} faces: {usage.ru_utime + usage.ru_stime:.1f} CPU s (under {MAX_S} for a million), "
        f"{wall_s:.1f} s, peak {usage.ru_maxrss * 1024 / _MB:.0f} MB (under {MAX_MB})\n"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=1_000_000)
    parser.add_argument("--near-distance", type=int, default=32)
    parser.add_argument("--copies", type=float, default=0.05)
    parser.add_argument("--films", type=float, default=0.1)
    parser.add_argument("--black", type=float, default=0.01)
    return parser.parse_args()


def make_hashes(count: int, seed: int = 0) -> np.ndarray:
    """Hashes of strangers: (N, 32) uint8."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(_NUM_FACTORS, HASH_BITS)).astype(np.float32)
    factors *= np.sqrt(_FACTOR_SHARE) / np.linalg.norm(factors, axis=0)
    leaning = (_LEANING * random.normal(size=HASH_BITS)).astype(np.float32)
    parts = []
    for start in range(0, count, UNIT_FACES):
        size = min(UNIT_FACES, count - start)
        own = np.sqrt(1 - _FACTOR_SHARE) * random.standard_normal((size, HASH_BITS), np.float32)
        shared = random.standard_normal((size, _NUM_FACTORS), np.float32) @ factors
        parts.append(np.packbits(own + shared > leaning, axis=1))
    return np.concatenate(parts)


def skew(hashes: np.ndarray, *, copies: float, films: float, black: float, seed: int = 1) -> np.ndarray:
    """The same, where some are copies, frames or black, shuffled: (N, 32) uint8."""
    random = np.random.default_rng(seed)
    hashes = hashes.copy()
    num_copies, num_black = int(copies * len(hashes)), int(black * len(hashes))
    num_frames = int(films * len(hashes)) // FILM_FRAMES * FILM_FRAMES
    hashes[:num_copies] = _turn(hashes[-num_copies - 1 : -1], _COPY_FLIPS, random)
    frames = slice(num_copies, num_copies + num_frames)
    hashes[frames] = _turn(np.repeat(hashes[frames][::FILM_FRAMES], FILM_FRAMES, axis=0), _FRAME_FLIPS, random)
    hashes[num_copies + num_frames :][:num_black] = 0
    return random.permutation(hashes)


def _turn(hashes: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    parts = [hashes[:0]]
    for start in range(0, len(hashes), UNIT_FACES):
        part = hashes[start : start + UNIT_FACES]
        parts.append(part ^ np.packbits(random.random((len(part), HASH_BITS), np.float32) < share, axis=1))
    return np.concatenate(parts)


def write_tables(output: Folder, hashes: np.ndarray) -> None:
    """An output folder of as many images with a kept face each."""
    config = load_config(None, ["write.crops=none"])
    make_manifest(config, {"in": "in"}).write(output)
    for name in ("images", "faces", "_units"):
        output.make_folder(name)
    for start in range(0, len(hashes), UNIT_FACES):
        part = hashes[start : start + UNIT_FACES]
        unit, numbers = f"unit-{start:09d}", range(start, start + len(part))
        image_ids = [f"in/person_{number % NUM_LABELS:05d}/{number:09d}.jpg" for number in numbers]
        labels = [f"person_{number % NUM_LABELS:05d}" for number in numbers]
        images = {
            "image_id": image_ids,
            "label": labels,
            "sha256": [f"{number:064x}" for number in numbers],
            "status": ["ok"] * len(part),
        }
        faces = {
            "face_id": [f"{image_id}#0" for image_id in image_ids],
            "image_id": image_ids,
            "label": labels,
            "kept": [True] * len(part),
            "phash": [row.tobytes().hex() for row in part],
        }
        pq.write_table(_table(images, IMAGES_SCHEMA), output.join(images_name(unit)), compression="zstd")
        pq.write_table(_table(faces, FACES_SCHEMA), output.join(faces_name(unit)), compression="zstd")
        summary = UnitSummary(unit, config.fingerprint, num_images=len(part), num_faces=len(part), num_kept=len(part))
        output.write_bytes(marker_name(unit), summary.to_json())


def _table(columns: dict[str, list[object]], schema: pa.Schema) -> pa.Table:
    count = len(columns["image_id"])
    return pa.table([pa.array(columns.get(field.name, [None] * count), field.type) for field in schema], schema=schema)


if __name__ == "__main__":
    main()
