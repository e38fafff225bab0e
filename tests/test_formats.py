"""A whole run over the folder of files that break readers: one row each, as its manifest lets expect."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from pictures import read_table

MAX_MEMORY_BYTES = 10**9
# Where Pillow's word is not the last: icons are refused, for their parts may be larger than they say.
NOT_DECODED = ("corrupt__decompression_bomb.ico",)


def run_watched(arguments: list[str]) -> tuple[int, str, int]:
    """Run facemill; its exit code, what it wrote to standard error, and the peak memory of any of its processes."""
    command = [sys.executable, "-m", "facemill.pipeline.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peaks = [0]

    def watch() -> None:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peaks[0] = max(peaks[0], *(p.memory_info().rss for p in (root, *root.children(recursive=True))))
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate(timeout=300)
    watcher.join()
    return process.returncode, errors, peaks[0]


@pytest.fixture(scope="module")
def manifest(shared_data: Path) -> dict[str, dict]:
    lines = (shared_data / "formats" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["image"]: row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_every_odd_file_gets_its_row(
    shared_data: Path, manifest: dict[str, dict], tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("formats") / "out"
    folder = shared_data / "formats" / "images"
    code, errors, peak = run_watched(["run", "--input", str(folder), "--output", str(output), "--workers", "1"])
    assert code == 0, errors
    assert "Traceback" not in errors
    assert 50e6 < peak < MAX_MEMORY_BYTES
    rows = {row["member"] or row["source"].rpartition("/")[2]: row for row in read_table(output, "images")}
    assert rows.keys() == manifest.keys()
    assert "internal_error" not in Counter(row["reason"] for row in rows.values())
    for name, expected in manifest.items():
        row = rows[name]
        decodes = expected["pil"] == "ok" and name not in NOT_DECODED
        if row["status"] != "failed":
            assert decodes, f"{name} should have failed"
        elif decodes:
            # Pillow reads it, and so do we, except for the smallest.
            assert (row["reason"], min(expected["size"]) < 12) == ("too_small", True), (name, row["message"])
        if expected.get("has_face") and decodes and expected["category"] in ("hopper", "exif", "large_face"):
            assert row["num_faces"] >= 1, name
        if expected.get("has_face") is False:
            assert row["num_kept"] == 0 or row["num_faces"] <= 3, name
