"""Every command and snippet of docs/export.md works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from made_outputs import MadeFace, made_crop, write_output

from facemill.pipeline.export.formats import FORMATS
from facemill.transforms.ops.storage import Folder

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SNIPPETS = [
    (name, snippet) for name in FORMATS for snippet in re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs")
    faces = [MadeFace(f"p{n % 12}/{n}.jpg", f"p{n % 12}", made_crop(n)) for n in range(60)]
    write_output(Folder(str(path / "out")), {"u0": faces})
    return path


def test_every_format_has_a_snippet() -> None:
    assert {name for name, _ in SNIPPETS} == set(FORMATS)


def interpreter_with(modules: list[str]) -> str:
    """This Python, or one of those that FACEMILL_READERS names, if it has the modules."""
    others = os.environ.get("FACEMILL_READERS", "")
    for python in [sys.executable, *filter(None, others.split(os.pathsep))]:
        program = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in {modules!r}))"
        if subprocess.run([python, "-c", program]).returncode == 0:
            return python
    pytest.skip(f"needs {', '.join(modules)}, here or in an interpreter that FACEMILL_READERS names")


@pytest.mark.parametrize(("name", "snippet"), SNIPPETS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(SNIPPETS)])
def test_the_command_and_the_snippet(name: str, snippet: str, folder: Path) -> None:
    python = interpreter_with(re.findall(r"^(?:import|from) (\w+)", snippet, re.MULTILINE))
    (command,) = re.findall(r"```sh\n(.*?)```", SECTIONS[name], re.DOTALL)
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    snippet_done = subprocess.run([python, "-c", snippet], cwd=folder, capture_output=True, text=True, env=environment)
    assert snippet_done.returncode == 0, snippet_done.stderr
    num_lines = len(snippet_done.stdout.splitlines())
    num_faces = int(re.search(r"train +(\d+)", done.stdout)[1])  # type: ignore[index]
    assert num_lines == (1 if name in ("hf", "imagefolder") else num_faces)
