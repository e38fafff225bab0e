"""Measures planning a million loose files, and a re-run with nothing to do on ten thousand committed units.

    python benchmarks/planning.py [--inputs N] [--units N] [--shards N] [--markers N] [--s3-markers N]

The million, and the shards, are made up by file systems that list names and hold no files. Planning runs in processes
of their own, whose peak memory is stated. The committed units are written by the project's own writer, a picture
without a face each. Of the markers, the account is taken on a local disk and, where moto and s3fs are installed, on an
S3-compatible server on loopback, whose log gives the number of requests.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
from servers import s3_server
from workload import measure, pack_shard, run_command

from facemill.pipeline.config import Config, load_config
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.plan import Plan, append_units, plan_new_inputs, read_plan
from facemill.pipeline.roots import check_disjoint, name_roots
from facemill.pipeline.splitting import LargeShard, split_shards
from facemill.pipeline.summary import check_tables, committed_units, take_account
from facemill.transforms.ops.committing import UnitSummary, UnitWriter
from facemill.transforms.ops.layout import CROPS, PLAN, faces_name, images_name, marker_name
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.records import Faces, ImageRecord
from facemill.transforms.ops.storage import Folder

MAX_PLANNING_S = 60
MAX_PLANNING_MB = 1000
MAX_RERUN_S = 5
NUM_FOLDERS = 1000
SHARD_BYTES = 10**9
COMMITTED_UNITS = 100  # whose commits are timed
SCANNED_MEMBERS, SCANNED_MEMBER_BYTES = 2500, 100_000
_MB = 1e6
_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Measure planning and a re-run with nothing to do.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="made-up loose files (default: %(default)s)")
    parser.add_argument("--units", type=int, default=10_000, help="committed units (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=100_000, help="made-up shards (default: %(default)s)")
    parser.add_argument("--markers", type=int, default=100_000, help="markers on a local disk (default: %(default)s)")
    parser.add_argument("--s3-markers", type=int, default=2_000, help="markers on a server (default: %(default)s)")
    parser.add_argument("--plan-shards-into", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--plan-into", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--commit-into", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan_into is not None:
        sys.stdout.write(json.dumps(plan_made_up_inputs(arguments.inputs, arguments.plan_into)))
    elif arguments.plan_shards_into is not None:
        sys.stdout.write(json.dumps(plan_made_up_shards(arguments.shards, arguments.plan_shards_into)))
    elif arguments.commit_into is not None:
        commit_units(arguments.units, arguments.commit_into)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _report_planning(arguments.inputs, Path(folder) / "planned")
            _report_rerun(arguments.units, Path(folder) / "committed")
            _report_shards(arguments.shards, Path(folder) / "shards")
            _report_local_account(arguments.markers, Path(folder) / "account")
            _report_s3_account(arguments.s3_markers, Path(folder))


def plan_made_up_inputs(num_inputs: int, output_folder: Path) -> dict[str, float]:
    """List and plan as the first run does, and once more as the next run does; seconds, peak bytes and counts."""
    MadeUpFiles.num_inputs = num_inputs
    fsspec.register_implementation("madeup", MadeUpFiles)
    config = load_config()
    output = Folder(str(output_folder))

    def plan() -> tuple[int, float]:
        started_at = time.perf_counter()
        listing = list_inputs("madeup://archive", ignored_extensions=config.read.ignored_extensions)
        named = name_roots([listing], {})
        plan = read_plan(output)
        check_disjoint(named, {}, plan.known_sizes())
        units = plan_new_inputs(plan, named, config.run)
        append_units(output, plan, units)
        return sum(len(unit.sources) for unit in units), time.perf_counter() - started_at

    num_planned, first_s = plan()
    first_peak = _peak_bytes()
    num_new, again_s = plan()
    assert (num_planned, num_new) == (num_inputs, 0)
    return {"first_s": first_s, "first_peak": first_peak, "again_s": again_s, "again_peak": _peak_bytes()}


def plan_made_up_shards(num_shards: int, output_folder: Path) -> dict[str, float]:
    """List and plan shards of 1 GB, read the plan back, and make its units; seconds, and bytes."""
    MadeUpShards.num_shards = num_shards
    fsspec.register_implementation("madeupshards", MadeUpShards)
    config = load_config()
    output = Folder(str(output_folder))
    clock = _Clock()
    listing = list_inputs("madeupshards://archive", ignored_extensions=config.read.ignored_extensions)
    clock.lap("listing_s")
    units = plan_new_inputs(read_plan(output), {"archive": listing}, config.run)
    append_units(output, read_plan(output), units)
    clock.lap("planning_s")
    plan = read_plan(output)
    clock.lap("reading_s")
    pending = plan.pending(frozenset())
    num_units = sum(1 for _ in plan.units(name for name, _ in pending))
    clock.lap("units_s")
    assert num_units == num_shards
    plan_bytes = sum(path.stat().st_size for path in (output_folder / PLAN).iterdir())
    return {**clock.seconds, "peak": _peak_bytes(), "plan_bytes": plan_bytes}


class _Clock:
    """Seconds between laps, by name, and the CPU seconds of this process in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        now, now_cpu = time.perf_counter(), time.process_time()
        self.seconds[name], self._last = now - self._last, now
        self.cpu[name], self._last_cpu = now_cpu - self._last_cpu, now_cpu


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT_BYTES


class MadeUpFiles(fsspec.AbstractFileSystem):
    """Lists `archive/person_0000/0000000.jpg` and so on; there is nothing to read."""

    protocol = "madeup"
    num_inputs: ClassVar[int] = 0

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        entries = _made_up_entries(self._strip_protocol(path), self.num_inputs)
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}


def _made_up_entries(path: str, num_inputs: int) -> list[dict[str, Any]]:
    if "/" not in path:
        return [{"name": f"{path}/person_{n:04d}", "size": 0, "type": "directory"} for n in range(NUM_FOLDERS)]
    folder = int(path.rsplit("_", 1)[-1])
    return [
        {"name": f"{path}/{number:07d}.jpg", "size": 20_000 + number % 5000, "type": "file"}
        for number in range(folder, num_inputs, NUM_FOLDERS)
    ]


class MadeUpShards(fsspec.AbstractFileSystem):
    """Lists `archive/part-000000.tar` and so on, of 1 GB each; there is nothing to read."""

    protocol = "madeupshards"
    num_shards: ClassVar[int] = 0

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = self._strip_protocol(path)
        return [
            {"name": f"{path}/part-{number:06d}.tar", "size": SHARD_BYTES + number, "type": "file"}
            for number in range(self.num_shards)
        ]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}


def commit_units(num_units: int, folder: Path) -> None:
    """Plan as many loose files as units, one each, and commit every unit as a worker would."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    for number in range(num_units):
        (inputs / f"{number:06d}.jpg").write_bytes(b"not read, as its unit is committed")
    config = load_config(None, ["run.unit_files=1"])
    output = Folder(str(folder / "output"))
    listing = list_inputs(str(inputs), ignored_extensions=config.read.ignored_extensions)
    make_manifest(config, {"inputs": listing.root.uri}).write(output)
    plan = read_plan(output)
    units = plan_new_inputs(plan, {"inputs": listing}, config.run)
    append_units(output, plan, units)
    for unit in units:
        _commit(output, unit.name, config)


def _commit(output: Folder, unit: str, config: Config) -> None:
    nothing = Faces(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0,), (0, 5, 2), (0, 3), (0,))))
    writer = UnitWriter(output, unit, config.write, config.fingerprint, config.align.templates)
    writer.add(ImageRecord(0, unit, unit, "", num_bytes=1, faces=nothing))
    writer.commit(num_images=1, started_at=time.time())


def _report_planning(num_inputs: int, output: Path) -> None:
    command = [sys.executable, __file__, "--inputs", str(num_inputs), "--plan-into", str(output)]
    cost = measure(command)
    figures: Mapping[str, float] = json.loads(cost.outputs[0])
    sys.stdout.write(
        f"planning {num_inputs:,} loose inputs: {figures['first_s']:.1f} s (under {MAX_PLANNING_S}), "
        f"peak {figures['first_peak'] / _MB:.0f} MB (under {MAX_PLANNING_MB}); "
        f"planning them again: {figures['again_s']:.1f} s, peak {figures['again_peak'] / _MB:.0f} MB\n"
    )


def _report_rerun(num_units: int, folder: Path) -> None:
    measure([sys.executable, __file__, "--units", str(num_units), "--commit-into", str(folder)])
    cost = measure(run_command(folder / "inputs", folder / "output"))
    sys.stdout.write(
        f"a run with nothing to do on {num_units:,} committed units: {cost.wall_s:.2f} s (under {MAX_RERUN_S}), "
        f"{cost.cpu_s:.2f} of them CPU\n"
    )


def _report_shards(num_shards: int, output: Path) -> None:
    cost = measure([sys.executable, __file__, "--shards", str(num_shards), "--plan-shards-into", str(output)])
    figures: Mapping[str, float] = json.loads(cost.outputs[0])
    sys.stdout.write(
        f"planning {num_shards:,} shards: listing {figures['listing_s']:.2f} s, cutting and writing "
        f"{figures['planning_s']:.2f} s, peak {figures['peak'] / _MB:.0f} MB; the plan has "
        f"{figures['plan_bytes'] / _MB:.1f} MB, reading it {figures['reading_s']:.2f} s, making its units "
        f"{figures['units_s']:.2f} s\n"
    )


def _report_local_account(num_markers: int, folder: Path) -> None:
    output = Folder(str(folder))
    config = load_config()
    clock = _Clock()
    for number in range(COMMITTED_UNITS):
        _commit(output, f"unit-{number:06d}", config)
    clock.lap("commit_s")
    for name, content in _committed_files(num_markers):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    _report_account(f"{num_markers:,} markers on a local disk", output, num_markers, clock, lambda: Counter())


def _report_s3_account(num_markers: int, folder: Path) -> None:
    if find_spec("moto") is None or find_spec("s3fs") is None:
        sys.stdout.write("no account on an S3-compatible server, as moto or s3fs is not installed\n")
        return
    log = folder / "requests.log"
    num_requests = partial(_count_requests, log)
    with s3_server(log) as endpoint:
        keys = {"key": "key", "secret": "secret", "endpoint_url": endpoint}
        output = Folder("s3://bucket/out", keys)
        output.fs.mkdir("bucket")
        config = load_config()
        before = num_requests()
        clock = _Clock()
        for number in range(COMMITTED_UNITS):
            _commit(output, f"unit-{number:06d}", config)
        clock.lap("commit_s")
        each = {method: count / COMMITTED_UNITS for method, count in (num_requests() - before).items()}
        sys.stdout.write(f"requests to commit a unit: {each}\n")
        for unit in ("unit-000000", "unit-nowhere"):
            before = num_requests()
            found = output.exists(marker_name(unit))
            sys.stdout.write(f"requests to look for a marker that is {'' if found else 'not '}there: ")
            sys.stdout.write(f"{dict(num_requests() - before)}\n")
        output.fs.inner.pipe({output.join(name): content for name, content in _committed_files(num_markers)})
        _report_scan(output)
        _report_account(f"{num_markers:,} markers on S3 on loopback", output, num_markers, clock, num_requests)


def _report_scan(output: Folder) -> None:
    """What it takes to find the members of a tar on the server."""
    tar = pack_shard(Path(tempfile.mkdtemp()) / "scanned.tar", [bytes(SCANNED_MEMBER_BYTES)] * SCANNED_MEMBERS)
    output.fs.put_file(str(tar), output.join("scanned.tar"))
    num_bytes = tar.stat().st_size
    shutil.rmtree(tar.parent)
    shard = LargeShard("in/scanned.tar", num_bytes, "tar", output)
    clock = _Clock()
    options = RunOptions(scan_bytes=num_bytes)
    ranges = split_shards([shard], num_bytes, options, on_split=lambda source: None, on_whole=sys.exit)
    clock.lap("scan")
    assert len(ranges[shard.source]) > 1
    gb = num_bytes / 1e9
    sys.stdout.write(f"finding the members of a tar of {gb:.2f} GB on S3 on loopback: ")
    sys.stdout.write(f"{clock.seconds['scan'] / gb:.1f} s a GB ({clock.cpu['scan'] / gb:.1f} CPU)\n")
    output.fs.rm_file(output.join("scanned.tar"))


def _committed_files(num_units: int) -> Iterator[tuple[str, bytes]]:
    """What lies in an output folder after as many units, as far as an account looks at it."""
    for number in range(num_units):
        unit = f"unit-{number:06d}"
        counts = {"num_images": 10_000, "num_faces": 20_000, "num_kept": 15_000, "num_crops": 15_000}
        summary = UnitSummary(
            unit,
            "0123456789abcdef",
            **counts,
            statuses={"ok": 9_000, "no_face": 1_000},
            rejection_reasons={"yaw": 5_000},
        )
        yield marker_name(unit), summary.to_json()
        for name in (images_name(unit), faces_name(unit), f"{CROPS}/{unit}.tar"):
            yield name, b""


def _report_account(
    what: str, output: Folder, num_markers: int, clock: _Clock, num_requests: Callable[[], Counter[str]]
) -> None:
    columns = {"unit": [f"unit-{number:06d}" for number in range(num_markers)], "kind": ["tar"] * num_markers}
    plan = Plan(pa.table(columns).append_column("sources", pa.array([[]] * num_markers, pa.list_(pa.binary()))))
    before = num_requests()
    clock.lap("making_s")
    committed = committed_units(output)
    clock.lap("finding_s")
    finding = num_requests() - before
    check_tables(output, committed, "tar", ("arcface112",))
    clock.lap("tables_s")
    tables = num_requests() - before - finding
    account = take_account(output, plan, committed)
    clock.lap("account_s")
    assert account.num_units == num_markers
    requests = num_requests() - before - finding - tables
    commit_ms, commit_cpu_ms = (1000 * lap["commit_s"] / COMMITTED_UNITS for lap in (clock.seconds, clock.cpu))
    sys.stdout.write(f"{what}: committing a unit {commit_ms:.1f} ms ({commit_cpu_ms:.1f} CPU)")
    steps = {"finding the committed units": ("finding_s", finding), "looking for their tables": ("tables_s", tables)}
    steps["reading the markers and adding up"] = ("account_s", requests)
    for step, (lap, counts) in steps.items():
        counted = f", {dict(counts)}" if counts else ""
        sys.stdout.write(f"; {step} {clock.seconds[lap]:.2f} s ({clock.cpu[lap]:.2f} CPU){counted}")
    sys.stdout.write("\n")


def _count_requests(log: Path) -> Counter[str]:
    """By method, from the lines of the server's log; a GET with `list-type` is a LIST."""
    colour = r"(?:\x1b\[[\d;]*m)*"  # which the server gives to answers other than 200
    lines = re.findall(rf'"{colour}([A-Z]+) (\S+) HTTP', log.read_text(encoding="utf-8", errors="replace"))
    return Counter("LIST" if "list-type=" in target else method for method, target in lines)


if __name__ == "__main__":
    main()
