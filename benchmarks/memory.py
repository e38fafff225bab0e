"""Measures the peak memory of a worker process on few and on many images, which must be about the same.

    python benchmarks/memory.py [--images FOLDER] [--small N] [--large N] [--workers N]

The pictures are packed into shards of 100; the archive repeats these shards under other names, so its size on disk does
not grow. A process of the run is looked at five times a second; where the kernel keeps its peak (Linux), that is read,
so that nothing between two looks is missed.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from workload import existing, load_pictures, pack_shard, peak_bytes, run_command

MAX_GROWTH = 1.10
MAX_PEAK_MB = 700
PICTURE_WH = (1152, 868)  # one megapixel
PER_SHARD = 100
_SAMPLE_SECONDS = 0.2
_MB = 1e6


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes of one run's processes."""

    workers: list[int]
    parent: int


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of workers.")
    parser.add_argument("--images", type=existing, metavar="FOLDER", help="pictures (default: made of scikit-image's)")
    parser.add_argument("--small", type=int, default=2000, help="images of the small archive (default: %(default)s)")
    parser.add_argument("--large", type=int, default=20_000, help="images of the large archive (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of the run, e.g. run.unit_bytes=1")
    arguments = parser.parse_args()
    options = ["--workers", str(arguments.workers), *(f"--set={setting}" for setting in arguments.settings)]
    pictures = load_pictures(arguments.images, size_wh=PICTURE_WH)
    with tempfile.TemporaryDirectory() as folder:
        shards = _pack(Path(folder) / "shards", pictures, arguments.large)
        small, large = (_measure(shards, n, Path(folder), options) for n in (arguments.small, arguments.large))
    _report(small, large, arguments.small, arguments.large)


def _pack(folder: Path, pictures: Sequence[bytes], num_images: int) -> list[Path]:
    """Shards that hold every picture once, or `num_images` where that is fewer."""
    endless = itertools.cycle(pictures)
    num_shards = min(-(-len(pictures) // PER_SHARD), -(-num_images // PER_SHARD))
    return [
        pack_shard(folder / f"{number:06d}.tar", list(itertools.islice(endless, PER_SHARD)))
        for number in range(num_shards)
    ]


def _measure(shards: Sequence[Path], num_images: int, folder: Path, options: Sequence[str]) -> Memory:
    with tempfile.TemporaryDirectory(dir=folder) as archive, tempfile.TemporaryDirectory(dir=folder) as output:
        for number, shard in zip(range(-(-num_images // PER_SHARD)), itertools.cycle(shards), strict=False):
            (Path(archive) / f"{number:06d}.tar").hardlink_to(shard)
        return _watch(run_command(Path(archive), Path(output), *options))


def _watch(command: Sequence[str]) -> Memory:
    """Run a command to its end; the peaks of it and of its workers."""
    workers: dict[int, int] = {}
    parent = 0
    with subprocess.Popen(command) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            parent = max(parent, peak_bytes(watched))
            for child in watched.children(recursive=True):
                if _is_worker(child):
                    workers[child.pid] = max(workers.get(child.pid, 0), peak_bytes(child))
            time.sleep(_SAMPLE_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Memory(sorted(workers.values()), parent)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("spawn_main" in argument for argument in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _report(small: Memory, large: Memory, num_small: int, num_large: int) -> None:
    for memory, num_images in ((small, num_small), (large, num_large)):
        workers = ", ".join(f"{peak / _MB:.0f}" for peak in memory.workers)
        sys.stdout.write(
            f"{num_images:,} images: peak MB of each worker {workers}; of the parent {memory.parent / _MB:.0f}\n"
        )
    growth = max(large.workers) / max(small.workers)
    sys.stdout.write(
        f"growth of the largest worker: {growth:.3f} (at most {MAX_GROWTH}); "
        f"maximum {max(large.workers) / _MB:.0f} MB (under {MAX_PEAK_MB})\n"
    )


if __name__ == "__main__":
    main()
