"""Imports point down: pipeline -> transforms -> transforms/ops -> models; and Beam stays out of ops and models."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("facemill.models", "facemill.transforms.ops", "facemill.transforms", "facemill.pipeline")  # from the bottom
FILES = sorted(path for folder in ("models", "transforms", "pipeline") for path in (ROOT / folder).rglob("*.py"))
MODULES_WITHOUT_EARLY_BEAM = (
    "pipeline/cli.py",
    "pipeline/run.py",
    "pipeline/plan.py",
    "pipeline/config.py",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pipeline/commands").glob("[!_]*.py")),
)


def layer_of(module: str) -> int | None:
    """The layer of a module of ours, or None; `transforms/ops` is told from `transforms` by the longer name."""
    found = [index for index, name in enumerate(LAYERS) if f"{module}.".startswith(f"{name}.")]
    return min(found) if found else None


def module_name(path: Path) -> str:
    return ".".join(("facemill", *path.relative_to(ROOT).with_suffix("").parts))


def imported_modules(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield child.module or ""


def test_the_files_are_found() -> None:
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of(module_name(path))
    assert own is not None
    for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
        layer = layer_of(module)
        assert layer is None or layer <= own, f"{path.relative_to(ROOT)} imports {module}, which lies above it"
        assert not (module.startswith("apache_beam") and own < 2), f"{path.relative_to(ROOT)} imports Beam"


@pytest.mark.parametrize("name", MODULES_WITHOUT_EARLY_BEAM)
def test_planning_and_help_do_not_import_beam(name: str) -> None:
    top_level = ast.Module(
        [n for n in ast.parse((ROOT / name).read_text(encoding="utf-8")).body if not isinstance(n, ast.FunctionDef)], []
    )
    modules = list(imported_modules(top_level))
    assert modules
    assert not [m for m in modules if m.startswith("apache_beam") or (layer_of(m) == 2)], "this pulls Beam in"


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("facemill.models.boxes", 0),
        ("facemill.transforms.ops.pose", 1),
        ("facemill.transforms.read", 2),
        ("numpy", None),
    ],
)
def test_layer_of(module: str, layer: int | None) -> None:
    assert layer_of(module) == layer
