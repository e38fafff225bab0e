"""Every command and snippet of the README works; the two installing ones are run by `.ci/run`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from made_outputs import MadeFace, made_crop, write_output
from pictures import coffee, jpeg, portrait

from facemill.transforms.ops.storage import Folder

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- \w+ -->\n)?```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for marker, kind, text in BLOCKS if kind == "sh" and not marker for line in text.splitlines() if line.strip()
]
SNIPPETS = [text for _, kind, text in BLOCKS if kind == "python"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(portrait(1))
    (tmp_path / "photos" / "2.jpg").write_bytes(jpeg(coffee()))
    (tmp_path / "photo.jpg").write_bytes(portrait(3))
    (tmp_path / "aligned").mkdir()
    (tmp_path / "aligned" / "1.jpg").write_bytes(portrait(4))
    return tmp_path


def test_the_readme_is_read() -> None:
    assert len(COMMANDS) >= 3
    assert len(SNIPPETS) == 1
    assert sum(bool(marker) for marker, _, _ in BLOCKS) == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if "s3://" not in c])
def test_a_command(command: str, folder: Path) -> None:
    if command.startswith("facemill export "):
        faces = [MadeFace(f"{n % 40}/{n}.jpg", str(n % 40), made_crop(n)) for n in range(80)]
        write_output(Folder(str(folder / "out")), {"unit": faces})
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_snippets_on_the_output(folder: Path) -> None:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "run", "--input", "photos", "--output", "out"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    page = Path(__file__).resolve().parents[1] / "docs" / "output.md"
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_snippet(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SNIPPETS[0]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0.99" in done.stdout
