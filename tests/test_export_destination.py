"""The folder that an export goes to: what in it is an export's own, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facemill.models.errors import ConfigError
from facemill.pipeline.export.destination import open_destination
from facemill.transforms.ops.storage import AtomicFile, Folder


def test_a_kill_while_the_beginning_is_noted_keeps_nobody_out(tmp_path: Path) -> None:
    AtomicFile(Folder(str(tmp_path)), "export.partial.json").file.close()
    assert len(list(tmp_path.iterdir())) == 1
    with open_destination(Folder(str(tmp_path))) as destination:
        assert destination.read_record() is None
        destination.begin(["train.csv"])
        destination.finish({"options": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["export.json"]


def test_the_scratch_folder_of_another_export_is_left_alone(tmp_path: Path) -> None:
    here, other = Folder(str(tmp_path / "here")), Folder(str(tmp_path / "other"))
    (tmp_path / "here").mkdir()
    with open_destination(other) as destination, destination.scratch(here.path) as scratch:
        with pytest.raises(ConfigError, match="here is not empty"), open_destination(here):
            pass
        (tmp_path / "here" / "export.partial.json").write_text('{"entries": []}')
        with open_destination(here) as second, second.scratch(None):
            assert scratch.exists()


def test_what_a_killed_export_left_in_its_folder_is_removed_though_it_has_another_scratch_now(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "set"))
    with open_destination(folder) as destination, destination.scratch(None) as scratch:
        name = scratch.name
    (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "scratch").mkdir()
    with open_destination(folder) as destination, destination.scratch(str(tmp_path / "scratch")):
        assert not (tmp_path / "set" / name).exists()


def test_a_kill_after_the_last_file_leaves_a_complete_export(tmp_path: Path) -> None:
    (tmp_path / "export.partial.json").write_text('{"entries": ["train.csv"]}')
    (tmp_path / "train.csv").write_text("")
    record = {"options": {}, "files": [{"name": "train.csv", "bytes": 0}]}
    (tmp_path / "export.json").write_text(json.dumps(record))
    with open_destination(Folder(str(tmp_path))) as destination:
        assert destination.read_record() == record
    assert {path.name for path in tmp_path.iterdir()} == {"export.json", "train.csv"}


@pytest.mark.parametrize("name", ["export.json", "export.partial.json"])
@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "3", "null", "{}", "\xff", '{"files": 3, "options": {}}', '{"files": [3], "options": {}}'),
        *('{"files": [], "options": 3}', '{"entries": [3]}', '{"entries": "*"}'),
    ],
)
def test_a_damaged_note_is_told(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    match = rf"{name} is damaged; choose a new folder"
    with open_destination(Folder(str(tmp_path))) as destination, pytest.raises(ConfigError, match=match):
        destination.read_record()
        destination.begin([])


def test_a_question_mark_in_the_path_needs_another_scratch_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "what?" / "set"))
    with (
        open_destination(folder) as destination,
        pytest.raises(ConfigError, match=r"set has a question mark in its path; --scratch names"),
        destination.scratch(None),
    ):
        pass
    with open_destination(folder) as destination, destination.scratch(str(tmp_path)) as scratch:
        assert scratch.parent == tmp_path
