"""`facemill demo`, as a person runs it first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import read_crops, read_table
from PIL import Image


def demo(output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "demo", "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return folder, demo(folder)


def test_it_ends_well_and_prints_the_summary(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = shown
    assert done.returncode == 0, done.stderr
    words = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["images", "7"] in words
    assert ["failed", "1"] in words
    assert str(folder / "contact_sheet.png") in done.stdout


def test_every_photograph_has_its_row(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    rows = {row["member"]: row for row in read_table(shown[0] / "output", "images")}
    assert len(rows) == 7, "the sidecar is no input"
    for name in ("people/astronaut.png", "people/hopper.jpg", "people/hopper_lying.jpg"):
        assert (rows[name]["status"], rows[name]["label"]) == ("ok", "people")
    for name in ("scenes/cat.png", "scenes/coffee.png", "scenes/rocket.jpg"):
        assert rows[name]["num_kept"] == 0
    assert rows["people/hopper_lying.jpg"]["exif_orientation"] == 6
    assert rows["broken/cut_off.jpg"]["reason"] == "truncated"


def test_the_picture_that_lies_gives_the_same_crop(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    faces = {row["image_id"]: row["crop"] for row in read_table(shown[0] / "output", "faces") if row["kept"]}
    crops = read_crops(shown[0] / "output")
    folder = shown[0] / "crops"
    folder.mkdir()
    for name, content in crops.items():
        (folder / name).write_bytes(content)
    upright, lying = (
        np.asarray(Image.open(folder / faces[f"{shown[0].name}/photos.tar/people/{name}.jpg"])).astype(int)
        for name in ("hopper", "hopper_lying")
    )
    assert np.abs(upright - lying).mean() < 5  # it was compressed once more


def test_the_contact_sheet_shows_faces_in_colour(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    sheet = np.asarray(Image.open(shown[0] / "contact_sheet.png")).astype(int)
    assert sheet.ndim == 3 and sheet.shape[2] == 3
    assert sheet.shape[0] >= 112 and sheet.shape[1] >= 112
    red, blue = sheet[..., 0], sheet[..., 2]
    assert ((red - blue) > 20).mean() > 0.1, "skin is redder than blue, unless the channels were swapped"


def test_a_second_time_there_is_nothing_to_do(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, first = shown
    sheet = (folder / "contact_sheet.png").read_bytes()
    second = demo(folder)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "1 committed, 0 to do" in second.stderr
    assert (folder / "contact_sheet.png").read_bytes() == sheet


def test_an_output_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = demo(tmp_path / "file")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
