"""Measures planning a million loose files, and a re-run with nothing to do on ten thousand committed units.

    python benchmarks/planning.py [--inputs N] [--units N]

The million are made up by a file system that lists names and holds no files. Planning runs in a process of its own,
whose peak memory is stated. The committed units are written by the project's own writer, a picture without a face each.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
from workload import measure, run_command

from facemill.pipeline.config import load_config
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.plan import append_units, plan_new_inputs, read_plan
from facemill.pipeline.roots import check_disjoint, name_roots
from facemill.transforms.ops.committing import UnitWriter
from facemill.transforms.ops.records import Faces, ImageRecord
from facemill.transforms.ops.storage import Folder

MAX_PLANNING_S = 60
MAX_PLANNING_MB = 1000
MAX_RERUN_S = 5
NUM_FOLDERS = 1000
_MB = 1e6
_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Measure planning and a re-run with nothing to do.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="made-up loose files (default: %(default)s)")
    parser.add_argument("--units", type=int, default=10_000, help="committed units (default: %(default)s)")
    parser.add_argument("--plan-into", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--commit-into", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan_into is not None:
        sys.stdout.write(json.dumps(plan_made_up_inputs(arguments.inputs, arguments.plan_into)))
    elif arguments.commit_into is not None:
        commit_units(arguments.units, arguments.commit_into)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _report_planning(arguments.inputs, Path(folder) / "planned")
            _report_rerun(arguments.units, Path(folder) / "committed")


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
    nothing = Faces(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0,), (0, 5, 2), (0, 3), (0,))))
    for unit in units:
        writer = UnitWriter(output, unit.name, config.write, config.fingerprint)
        source = unit.sources[0]
        writer.add(ImageRecord(0, source, source, "", num_bytes=unit.num_bytes, faces=nothing))
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


if __name__ == "__main__":
    main()
