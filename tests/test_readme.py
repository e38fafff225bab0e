"""Every command and snippet of the README works; the two installing ones are run by `.ci/run`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pictures import portrait, scenery, write_loose

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- \w+ -->\n)?```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for marker, kind, text in BLOCKS if kind == "sh" and not marker for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two pictures each of some people, such that the README's split has both parts, and a scene."""
    people = ("anna", "ben", "cleo", "dana", "emil", "faye")
    photos = {f"{name}/{i}.jpg": portrait(4 * n + 30 * i) for n, name in enumerate(people) for i in range(2)}
    path = tmp_path_factory.mktemp("readme")
    write_loose(path / "photos", {**photos, "scenes/cup.jpg": scenery(0)})
    return write_loose(path, {"photo.jpg": portrait(3)})


def test_the_readme_is_read() -> None:
    assert len(COMMANDS) >= 10
    assert sum(kind == "python" for _, kind, _ in BLOCKS) == 2
    assert sum(bool(marker) for marker, _, _ in BLOCKS) == 2


def test_lines_are_not_long() -> None:
    assert max(map(len, README.splitlines())) <= 120


@pytest.fixture(scope="module")
def walk(folder: Path) -> dict[str, str]:
    """What the commands and snippets print, one after the other, but for those on clusters."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    printed = {}
    for marker, kind, text in BLOCKS:
        for step in text.splitlines() if kind == "sh" else [text]:
            if marker or "s3://" in step:
                continue
            command = ["sh", "-c", step] if kind == "sh" else [sys.executable, "-c", step]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, f"{step}\n{done.stderr}"
            printed[step] = done.stdout
    return printed


def test_every_command_and_snippet_prints_something(walk: dict[str, str]) -> None:
    assert len(walk) >= 12
    assert all(walk.values())


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("facemill run", "of 6 labels (identities)"),
        ("facemill export out", "of 1 identities"),
        ("import glob", "(112, 112) 4"),
        ("facemill check-crops", "verdict: the crops were made with arcface112"),
        ("facemill duplicates", "drawn"),
        ("import numpy", "0.99"),
    ],
)
def test_what_is_printed(step: str, words: str, walk: dict[str, str]) -> None:
    (printed,) = [text for name, text in walk.items() if name.startswith(step)]
    assert words in printed


@pytest.mark.usefixtures("walk")
def test_the_snippets_on_the_output(folder: Path) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "output.md"
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout
