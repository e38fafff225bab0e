"""The local mode when workers die, hang or cannot start: real processes, really killed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pictures import portrait, read_crops, read_table, write_loose

from facemill.pipeline.config import load_config
from facemill.pipeline.run import RunRequest, RunResult, run
from facemill.transforms.ops.storage import Folder

# Stands for a codec with a bug: Python runs this file at the start of every process that finds it on its path.
SITE = """
import os, signal, time
import simplejpeg
real_decode = simplejpeg.decode_jpeg
def deadly_decode(data, *arguments, **options):
    if b"KILLS" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"HANGS" in data:
        time.sleep(3600)
    return real_decode(data, *arguments, **options)
simplejpeg.decode_jpeg = deadly_decode
"""
GOOD = {f"{i}.jpg": portrait(i) for i in range(6)}


@pytest.fixture
def deadly_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


def start(files: dict[str, bytes], tmp_path: Path, *settings: str) -> RunResult:
    folder = write_loose(tmp_path / "photos", files)
    config = load_config(None, ["run.unit_files=4", *settings])
    request = RunRequest(inputs=[str(folder)], output=Folder(str(tmp_path / "out")), config=config, num_workers=2)
    return run(request, out=io.StringIO(), err=io.StringIO())


@pytest.mark.usefixtures("deadly_codec")
def test_an_image_that_kills_its_worker_costs_itself_alone(tmp_path: Path) -> None:
    result = start(GOOD | {"2-deadly.jpg": portrait(9) + b"KILLS"}, tmp_path)
    assert result.is_complete
    assert result.outcome.num_deaths == 3
    rows = {row["image_id"]: row for row in read_table(tmp_path / "out", "images")}
    assert len(rows) == len(GOOD) + 1
    deadly = rows.pop("photos/2-deadly.jpg")
    assert (deadly["status"], deadly["reason"]) == ("failed", "internal_error")
    assert "the worker process died on this image" in deadly["message"]
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(read_crops(tmp_path / "out")) == len(GOOD)
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.usefixtures("deadly_codec")
def test_an_image_on_which_a_worker_hangs_is_given_up(tmp_path: Path) -> None:
    files = GOOD | {"3-slow.jpg": portrait(9) + b"HANGS"}
    result = start(files, tmp_path, "run.stall_seconds=10", "run.max_worker_deaths=1")
    assert result.is_complete
    assert result.outcome.num_deaths == 1
    failed = [row["image_id"] for row in read_table(tmp_path / "out", "images") if row["status"] == "failed"]
    assert failed == ["photos/3-slow.jpg"]
