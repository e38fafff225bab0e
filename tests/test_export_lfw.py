"""Photographs of known people, run and exported: what every format's readers get is what the run wrote."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from exported import FORMATS, SPLITS, load
from pictures import read_crops, read_table

from facemill.pipeline.config import load_config
from facemill.pipeline.export.job import ExportRequest, export
from facemill.pipeline.export.options import ExportOptions, parse_splits
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.storage import Folder

NUM_PEOPLE = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def source(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run over the photographs of some people, in a folder each."""
    folder = tmp_path_factory.mktemp("lfw")
    photos = sorted((shared_data / "lfw_pairs" / "images").glob("*.jpg"))
    people = sorted({person_of(photo) for photo in photos})[:NUM_PEOPLE]
    for photo in photos:
        if person_of(photo) in people:
            (folder / "lfw" / person_of(photo)).mkdir(parents=True, exist_ok=True)
            (folder / "lfw" / person_of(photo) / photo.name).symlink_to(photo)
    request = RunRequest(
        inputs=[str(folder / "lfw")],
        output=Folder(str(folder / "out")),
        config=load_config("recognition"),
        num_workers=2,
    )
    run(request, out=io.StringIO(), err=io.StringIO())
    return folder / "out"


def person_of(photo: Path) -> str:
    return re.sub(r"_\d+$", "", photo.stem)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_what_the_run_wrote(
    format: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = ExportOptions(format=format, splits=parse_splits("train=0.7,validation=0.15,test=0.15"))
    request = ExportRequest(source=Folder(str(source)), destination=Folder(str(tmp_path / "set")), options=options)
    export(request, out=io.StringIO(), err=io.StringIO())
    crops = read_crops(source)
    kept = {row["face_id"]: row for row in read_table(source, "faces") if row["kept"]}
    assert len(kept) > 50
    splits = [load(tmp_path / "set", format, split) for split in SPLITS]
    assert {face.face_id: face.content for split in splits for face in split} == {
        face_id: crops[row["crop"]] for face_id, row in kept.items()
    }
    assert sum(map(len, splits)) == len(kept)
    people = [{kept[face.face_id]["label"] for face in split} for split in splits]
    assert sum(map(len, people)) == len(set().union(*people)) == len({row["label"] for row in kept.values()})
