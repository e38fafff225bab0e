"""The documentation names what the code has."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from facemill.models.errors import FAILURE_REASONS
from facemill.pipeline.config import Config
from facemill.pipeline.duplicates import DUPLICATE_FACES_SCHEMA, DUPLICATE_IMAGES_SCHEMA
from facemill.transforms.ops.alignment import NO_CROP
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA
from facemill.transforms.ops.verdict import VERDICT_REASONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("section", [field.name for field in dataclasses.fields(Config)])
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    part = read("docs/configuration.md").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| (\w+) \| `(.*?)` \| \S.* \|$", part, re.MULTILINE))
    values = Config().to_tree()[section]
    assert documented.keys() == values.keys()
    for key, default in documented.items():
        assert default in (json.dumps(values[key]), "..."), key


@pytest.mark.parametrize(
    ("section", "schema"),
    [
        ("images", IMAGES_SCHEMA),
        ("faces", FACES_SCHEMA),
        ("duplicates", DUPLICATE_IMAGES_SCHEMA),
        ("duplicates", DUPLICATE_FACES_SCHEMA),
    ],
)
def test_every_column_is_documented(section: str, schema: pa.Schema) -> None:
    text = read("docs/output.md").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = {name.strip() for cell in re.findall(r"^\| ([\w, ]+) \|", text, re.MULTILINE) for name in cell.split(",")}
    assert not set(schema.names) - cells


def test_every_reason_is_documented() -> None:
    for reason in FAILURE_REASONS:
        assert f"| `{reason}` |" in read("docs/inputs.md")
    for reason in (*VERDICT_REASONS, NO_CROP):
        assert reason in read("docs/output.md")


def test_the_pages_are_found() -> None:
    assert len(PAGES) >= 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
