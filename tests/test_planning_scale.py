"""What planning costs: listings, memory per input, and what a run with nothing to do touches."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest

from facemill.pipeline import run as run_module
from facemill.pipeline.config import load_config
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.plan import append_units, plan_new_inputs, read_plan
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.committing import UnitWriter
from facemill.transforms.ops.layout import FACES, IMAGES
from facemill.transforms.ops.records import Faces, ImageRecord
from facemill.transforms.ops.storage import Folder

NUM_FOLDERS, FILES_PER_FOLDER = 20, 500
NUM_FILES = NUM_FOLDERS * FILES_PER_FOLDER
CONFIG = load_config()


class ListedOnly(fsspec.AbstractFileSystem):
    """A store that can be listed, and counts what it is asked; everything else fails."""

    protocol = "listedonly"
    questions: ClassVar[list[str]] = []

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        self.questions.append(f"ls {path}")
        path = self._strip_protocol(path)
        if "/" not in path:
            return [{"name": f"{path}/person_{n:03d}", "size": 0, "type": "directory"} for n in range(NUM_FOLDERS)]
        return [{"name": f"{path}/{n:06d}.jpg", "size": 1000 + n, "type": "file"} for n in range(FILES_PER_FOLDER)]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self.questions.append(f"info {path}")
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}


@pytest.fixture(autouse=True)
def listed_only() -> None:
    fsspec.register_implementation("listedonly", ListedOnly, clobber=True)
    ListedOnly.questions.clear()


def test_planning_asks_once_per_folder_and_never_about_a_file(tmp_path: Path) -> None:
    listing = list_inputs("listedonly://archive", ignored_extensions=())
    output = Folder(str(tmp_path))
    units = plan_new_inputs(read_plan(output), {"archive": listing}, CONFIG.run)
    plan = append_units(output, read_plan(output), units)
    assert sum(plan.num_planned().values()) == NUM_FILES
    assert len(ListedOnly.questions) <= NUM_FOLDERS + 5
    assert plan_new_inputs(read_plan(output), {"archive": listing}, CONFIG.run) == []


def test_planning_keeps_to_its_memory_per_input(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        listing = list_inputs("listedonly://archive", ignored_extensions=())
        append_units(
            Folder(str(tmp_path)),
            read_plan(Folder(str(tmp_path))),
            plan_new_inputs(read_plan(Folder(str(tmp_path))), {"archive": listing}, CONFIG.run),
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A million inputs in 1 GB leave 1000 bytes for each; Arrow's share and the interpreter's 150 MB are not seen here.
    assert peak_bytes / NUM_FILES < 700


def commit_without_faces(inputs: Path, output: Folder) -> int:
    config = load_config(None, ["run.unit_files=1"])
    listing = list_inputs(str(inputs), ignored_extensions=())
    make_manifest(config, {inputs.name: listing.root.uri}).write(output)
    units = plan_new_inputs(read_plan(output), {inputs.name: listing}, config.run)
    append_units(output, read_plan(output), units)
    for unit in units:
        faces = Faces(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0,), (0, 5, 2), (0, 3), (0,))))
        writer = UnitWriter(output, unit.name, config.write, config.fingerprint, config.align.templates)
        writer.add(ImageRecord(0, unit.sources[0], unit.sources[0], "", faces=faces))
        writer.commit(num_images=1, started_at=0.0)
    return len(units)


def test_a_run_with_nothing_to_do_starts_no_worker_and_opens_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, output = tmp_path / "inputs", Folder(str(tmp_path / "output"))
    inputs.mkdir()
    for number in range(20):
        (inputs / f"{number}.jpg").write_bytes(b"not read any more")
    assert commit_without_faces(inputs, output) == 20
    tables = [path for folder in (IMAGES, FACES) for path in (tmp_path / "output" / folder).iterdir()]
    assert len(tables) == 40
    for path in tables:
        path.write_bytes(b"no Parquet file any more")
    monkeypatch.setattr(run_module, "run_local", None)
    result = run(RunRequest([str(inputs)], output, CONFIG), out=io.StringIO(), err=io.StringIO())
    assert result.is_complete
    assert (result.account.num_images, result.account.statuses["no_face"]) == (20, 20)
