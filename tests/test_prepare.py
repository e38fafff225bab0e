"""What is checked before the manifest and the plan are written."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tables_of_rows import image_row, write_output

from facemill.models.errors import ConfigError, DamagedOutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.listing import Listing
from facemill.pipeline.manifest import read_manifest
from facemill.pipeline.outputs import open_output
from facemill.pipeline.prepare import prepare
from facemill.pipeline.request import RunRequest
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.credentials import separate_signatures
from facemill.transforms.ops.layout import marker_name
from facemill.transforms.ops.storage import Folder

CONFIG = load_config(None, ["run.unit_files=1"])


def test_signed_urls_are_named_again_to_go_on(tmp_path: Path) -> None:
    urls = ["https://host/photos/a.jpg", "https://host/photos/b.jpg?token=s3cret"]
    public, options = separate_signatures(urls, {})
    listing = Listing(Folder("https://host/photos", options), ["a.jpg", "b.jpg"], [1, 2], 0)
    first = RunRequest(public, Folder(str(tmp_path / "out")), CONFIG, storage_options=options)
    _, plan = prepare(first, [listing], frozenset(), io.StringIO())
    assert b"s3cret" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    a, b = sorted(plan.names, key=lambda name: next(plan.units([name])).sources)
    bare = replace(first, inputs=(), storage_options={})
    with pytest.raises(ConfigError, match=r"photos/b\.jpg was read by a signed URL, .* name it again with --input"):
        prepare(bare, [], frozenset({a}), io.StringIO())
    prepare(bare, [], frozenset({b}), io.StringIO())
    prepare(first, [listing], frozenset({a}), io.StringIO())
    for name in (a, b):
        first.output.write_bytes(marker_name(name), UnitSummary(name, CONFIG.fingerprint).to_json())
    crop = replace(bare, tables=first.output, output=Folder(str(tmp_path / "again")))
    with pytest.raises(ConfigError, match="fetch it, and say --moved photos=FOLDER"):
        prepare(crop, [], frozenset(), io.StringIO())
    (tmp_path / "copy").mkdir()
    prepare(replace(crop, moved={"photos": str(tmp_path / "copy")}), [], frozenset(), io.StringIO())


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {}},
        {"config": None},
        {"config": {**CONFIG.to_tree(), "judge": 3}},
        {"config": {**CONFIG.to_tree(), "judge": {"min_score": "high"}}},
        {"inputs": None},
        {"inputs": {"photos": 3}},
        {"models": [3]},
        {"versions": []},
        {"engine": "cpu"},
        {"tables": None},
        {"signed": 1},
        {"schema_version": "two"},
        {"new": 1},
    ],
)
def test_a_manifest_of_other_values_is_damaged(changed: dict[str, object], tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [image_row("photos/a.jpg")])
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    for read in (read_manifest, open_output):
        with pytest.raises(DamagedOutputError, match=rf"{path} is damaged \([^\n]+\); choose a new output folder"):
            read(output)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", "", "[" * 100_000])
def test_a_manifest_that_is_none_is_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DamagedOutputError, match=r"manifest.json is damaged \([^\n]+\)"):
        read_manifest(Folder(str(tmp_path)))


def test_a_manifest_of_another_version_may_have_another_configuration(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [image_row("photos/a.jpg")])
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 1, "config": {"old": {}}}))
    with pytest.raises(ConfigError, match="holds tables of version 1"):
        open_output(output)


@pytest.mark.parametrize("is_there", [True, False])
def test_roots_that_cannot_be_read_leave_no_manifest(tmp_path: Path, is_there: bool) -> None:
    tables = Folder(f"memory://{tmp_path.name}/tables")
    (tmp_path / "photos").mkdir()
    listing = Listing(Folder(str(tmp_path / "photos")), ["a.jpg"], [1], 0)
    _, plan = prepare(RunRequest(["photos"], tables, CONFIG), [listing], frozenset(), io.StringIO())
    tables.write_bytes(marker_name(plan.names[0]), UnitSummary(plan.names[0], CONFIG.fingerprint).to_json())
    if not is_there:
        (tmp_path / "photos").rmdir()
    output = Folder(f"memory://{tmp_path.name}/out")
    crop = RunRequest((), output, CONFIG, tables=tables, runner="DataflowRunner")
    message = "Dataflow's machines cannot reach" if is_there else "is gone; .* say with --moved photos=URI"
    with pytest.raises(ConfigError, match=message):
        prepare(crop, [], frozenset(), io.StringIO())
    assert read_manifest(output) is None and not output.exists("plan")
