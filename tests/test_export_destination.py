"""The folder that an export goes to: what in it is an export's own, and what is damaged."""

from __future__ import annotations

from pathlib import Path

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
