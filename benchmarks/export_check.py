"""Exports the output folder of a run to every format, and reads each back as its users do: counts, bytes, splits.

    python benchmarks/export_check.py OUT [--split SHARES] [--scratch DIR]

OUT is a local folder of one template, with its crops in tars. It fails unless every format has each kept and labelled
face once, with the bytes that lie in crops/, and no identity in two splits. Needs the extras `test` and `dev`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from exported import FORMATS, Loaded, load
from workload import FACEMILL


class Kept(NamedTuple):
    """A face that an export must hold."""

    label: str
    content: bytes


def main() -> None:
    """Parse, export, compare, report."""
    parser = argparse.ArgumentParser(description="Read exports of a run back and compare them with its crops.")
    parser.add_argument("output", metavar="OUT", type=Path)
    parser.add_argument("--split", default="train=0.8,validation=0.1,test=0.1", help="default: %(default)s")
    parser.add_argument("--scratch", metavar="DIR", help="where all is written, and removed (default: the system's)")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    kept = _read_kept(options.output)
    num_bytes = sum(len(face.content) for face in kept.values())
    people = {face.label for face in kept.values()}
    sys.stdout.write(f"{len(kept):,} kept faces of {len(people):,} identities, {num_bytes:,} bytes in crops/\n")
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for name in FORMATS:
            destination = Path(folder) / name
            command = [*FACEMILL, "export", str(options.output), "--to", name, "--output", str(destination)]
            subprocess.run([*command, "--split", options.split], stdout=subprocess.DEVNULL, check=True)
            _compare(name, kept, [load(destination, name, part.partition("=")[0]) for part in options.split.split(",")])


def _read_kept(output: Path) -> dict[str, Kept]:
    crops: dict[str, bytes] = {}
    for path in sorted((output / "crops").glob("*.tar")):
        with tarfile.open(path) as tar:
            crops |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    rows = [row for path in sorted((output / "faces").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    faces = [row for row in rows if row["kept"] and row["label"] is not None]
    return {row["face_id"]: Kept(row["label"], crops[row["crop"]]) for row in faces}


def _compare(name: str, kept: dict[str, Kept], splits: list[list[Loaded]]) -> None:
    found = {face.face_id: face.content for faces in splits for face in faces}
    people = [{kept[face.face_id].label for face in faces} for faces in splits]
    if found != {face_id: face.content for face_id, face in kept.items()} or len(kept) != sum(map(len, splits)):
        raise RuntimeError(f"{name} holds other faces than the run kept")
    if sum(map(len, people)) != len(set().union(*people)):
        raise RuntimeError(f"{name} has an identity in two splits")
    counts = ", ".join(f"{len(faces):,} of {len(labels):,}" for faces, labels in zip(splits, people, strict=True))
    num_bytes = sum(map(len, found.values()))
    sys.stdout.write(
        f"{name:<12}{len(found):>8,} faces, {num_bytes:,} bytes, all equal; faces of identities: {counts}\n"
    )


if __name__ == "__main__":
    main()
