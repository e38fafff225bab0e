"""Measures `facemill export`: faces a second and peak memory of each format, on few and on many made crops.

    python benchmarks/export.py [--small N] [--large N] [--format NAME ...] [--scratch DIR]

The crops are 200 pictures of 112 x 112 that repeat. Faces come 20 to an identity, but for one in a thousand, which
all belong to a single one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from made_outputs import MadeFace, made_crop, write_output
from workload import FACEMILL

from facemill.pipeline.export.formats import FORMATS
from facemill.transforms.ops.storage import Folder

MAX_PEAK_MB = 1500
_NUM_CROPS = 200
_UNIT_FACES = 10_000
_MB = 1e6


@dataclass(frozen=True)
class Export:
    """What one export took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Measure facemill export.")
    parser.add_argument("--small", type=int, default=20_000, help="faces of the small output (default: %(default)s)")
    parser.add_argument("--large", type=int, default=200_000, help="of the large one (default: %(default)s)")
    parser.add_argument("--format", action="append", choices=tuple(FORMATS), help="default: all")
    parser.add_argument("--scratch", metavar="DIR", help="where all is written, and removed (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        outputs = {number: Path(folder) / f"out-{number}" for number in (options.small, options.large)}
        for number, output in outputs.items():
            _make(output, number)
        size = sum(path.stat().st_size for path in (outputs[options.large] / "crops").iterdir())
        sys.stdout.write(f"{options.large:,} faces, crops of {size / options.large:,.0f} bytes in tar\n")
        for name in options.format or FORMATS:
            small, large = (_export(output, Path(folder) / "set", name) for output in outputs.values())
            _report(name, options.large, small, large)


def _make(output: Path, num_faces: int) -> None:
    crops = [made_crop(number, size_px=112, detail_px=20) for number in range(_NUM_CROPS)]

    def faces(start: int) -> Iterator[MadeFace]:
        for number in range(start, min(start + _UNIT_FACES, num_faces)):
            label = f"person_{number // 20:07d}" if number % 1000 else "everybody"
            yield MadeFace(f"archive/{label}/{number:09d}.jpg", label, crops[number % _NUM_CROPS])

    starts = range(0, num_faces, _UNIT_FACES)
    write_output(Folder(str(output)), {f"unit-{start:09d}": faces(start) for start in starts})


def _export(output: Path, destination: Path, name: str) -> Export:
    command = [*FACEMILL, "export", str(output), "--to", name, "--output", str(destination)]
    started_at = time.perf_counter()
    command += ["--split", "train=0.9,test=0.1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - started_at
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command} ended with {child.returncode}")
    subprocess.run(["rm", "-r", str(destination)], check=True)
    return Export(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / _MB)


def _report(name: str, num_faces: int, small: Export, large: Export) -> None:
    growth = large.peak_mb - small.peak_mb
    sys.stdout.write(
        f"{name:<12}{num_faces / large.wall_s:>8,.0f} faces/s, {large.cpu_s:6.1f} CPU s; "
        f"peak {large.peak_mb:5,.0f} MB (under {MAX_PEAK_MB:,}), {growth:+5,.0f} MB over the small one\n"
    )


if __name__ == "__main__":
    main()
