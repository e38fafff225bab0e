"""Runs from and to object stores and over HTTP, in order and with a share of the requests spoiled.

    python benchmarks/storage.py [--images FOLDER] [--count N] [--one-in N] [--workers N] [--places s3 gs az http]

Half of the pictures lie in folders, half in tar shards. The servers are on this machine (see stores/fetch), each behind
the proxy of faults.py. Every result must be the same to the bit as that of a run on the local disk.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from faults import FaultProxy, fault_proxy
from object_stores import StoreName, download, missing, result_of, running_store, upload
from web import web_server
from workload import existing, load_pictures, pack_shard, run_command

PICTURE_WH = (640, 480)
PER_FOLDER = 25
PER_SHARD = 50


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Measure runs on object stores and over HTTP.")
    parser.add_argument("--images", type=existing, metavar="FOLDER", help="pictures (default: made of scikit-image's)")
    parser.add_argument("--count", type=int, default=400, help="images of the archive (default: %(default)s)")
    parser.add_argument("--one-in", type=int, default=20, help="spoil one of so many requests (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    places = [*get_args(StoreName), "http"]
    parser.add_argument("--places", nargs="+", choices=places, default=places)
    arguments = parser.parse_args()
    options = ["--workers", str(arguments.workers), "--set", f"run.unit_files={PER_SHARD}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = _pack(folder / "photos", load_pictures(arguments.images, size_wh=PICTURE_WH), arguments.count)
        seconds = _run(run_command(photos, folder / "out", *options), {})
        expected = result_of(folder / "out")
        sys.stdout.write(f"{arguments.count} images; local disk: {seconds:.1f} s, {len(expected)} files\n")
        for place in arguments.places:
            lacking = None if place == "http" else missing(place)
            if lacking is not None:
                sys.stdout.write(f"{place}: {lacking}\n")
                continue
            for one_in in (0, arguments.one_in):
                with tempfile.TemporaryDirectory(dir=folder) as output:
                    measure = _over_http if place == "http" else _on_store
                    measure(place, photos, Path(output), one_in, options, expected)


def _pack(folder: Path, pictures: Sequence[bytes], count: int) -> Path:
    endless = itertools.cycle(pictures)
    for number in range(count // 2):
        path = folder / f"{number // PER_FOLDER:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next(endless))
    for first in range(count // 2, count, PER_SHARD):
        num_members = min(PER_SHARD, count - first)
        pack_shard(folder / f"{first:06d}.tar", list(itertools.islice(endless, num_members)))
    return folder


def _on_store(
    place: StoreName, photos: Path, output: Path, one_in: int, options: Sequence[str], expected: dict[str, bytes]
) -> None:
    with running_store(place) as store:
        upload(store, photos, "bucket/photos")
        with fault_proxy(store.address, one_in=one_in) as proxy:
            command = run_command(store.uri("bucket/photos"), store.uri("bucket/out"), *options)
            seconds = _run(command, store.behind(proxy.address).environment)
        _report(place, seconds, proxy, result_of(download(store, "bucket/out", output)) == expected)


def _over_http(
    place: str, photos: Path, output: Path, one_in: int, options: Sequence[str], expected: dict[str, bytes]
) -> None:
    with web_server(photos.parent, parts=True) as address, fault_proxy(address, one_in=one_in) as proxy:
        seconds = _run(run_command(f"{proxy.address}/photos", output, *options), {})
    _report(place, seconds, proxy, result_of(output) == expected)


def _run(command: Sequence[str], environment: dict[str, str]) -> float:
    started_at = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - started_at


def _report(place: str, seconds: float, proxy: FaultProxy, is_same: bool) -> None:
    spoiled = ", ".join(f"{kind} {count}" for kind, count in sorted(proxy.faults.items())) or "none"
    verdict = "the same to the bit" if is_same else "ANOTHER RESULT"
    sys.stdout.write(f"{place}: {seconds:.1f} s, {proxy.requests.total()} requests, spoiled: {spoiled}; {verdict}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
