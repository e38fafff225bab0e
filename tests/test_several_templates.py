"""Crops in several templates in one run: where they lie, that they are those of runs in each, and the balance."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import archive, read_table, write_loose
from PIL import Image

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.crop import crop_config
from facemill.pipeline.output_folder import sweep_output
from facemill.pipeline.outputs import open_output
from facemill.pipeline.run import RunRequest, RunResult, run
from facemill.transforms.ops.layout import CropStore, marker_name
from facemill.transforms.ops.storage import Folder

SIZES = {"sphereface96x112": (96, 112), "ffhq256": (256, 256), "facenet160": (160, 160), "mine": (40, 40)}
TEMPLATES = f"align.template={json.dumps(list(SIZES))}"
MINE = "align.own={mine: {kind: square, size: 40, margin: 0.5}}"
NUM_PORTRAITS = 5


def start(inputs: Path, output: Path, *settings: str) -> tuple[RunResult, str]:
    out = io.StringIO()
    config = load_config(None, ["run.unit_files=4", MINE, *settings])
    request = RunRequest(inputs=[str(inputs)], output=Folder(str(output)), config=config)
    return run(request, out=out, err=io.StringIO()), out.getvalue()


def crops_of(output: Path, template: str) -> dict[str, bytes]:
    opened = open_output(Folder(str(output)))
    return dict(crop for unit in opened.units for crop in opened.crops(unit, template))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loose(tmp_path_factory.mktemp("inputs") / "photos", archive(NUM_PORTRAITS))


@pytest.fixture(scope="module", params=["tar", "files", "parquet"])
def made(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp(request.param) / "out"
    result, printed = start(photos, output, TEMPLATES, f"write.crops={request.param}")
    assert result.is_complete
    assert result.account.num_crops == NUM_PORTRAITS
    return output, printed


def test_each_template_has_a_crop_of_each_kept_face(made: tuple[Path, str]) -> None:
    names = {row["crop"] for row in read_table(made[0], "faces") if row["kept"]}
    assert len(names) == NUM_PORTRAITS
    for template, size_wh in SIZES.items():
        crops = crops_of(made[0], template)
        assert crops.keys() == names
        assert {Image.open(io.BytesIO(content)).size for content in crops.values()} == {size_wh}


def test_where_they_lie(made: tuple[Path, str]) -> None:
    output, printed = made
    store: CropStore = open_output(Folder(str(output))).store
    folder = "files" if store == "files" else "crops"
    assert {path.name for path in (output / folder).iterdir()} == set(SIZES)
    assert f"5   crops: 4 of each, {folder}/TEMPLATE/" in printed
    units = open_output(Folder(str(output))).units
    assert len(units) == 2
    for template in SIZES:
        there = {path.name for path in (output / folder / template).iterdir()}
        assert there == {unit + {"tar": ".tar", "parquet": ".parquet", "files": ""}[store] for unit in units}


def test_one_of_several_must_be_named(made: tuple[Path, str]) -> None:
    opened = open_output(Folder(str(made[0])))
    with pytest.raises(ConfigError, match="holds crops of sphereface96x112, ffhq256, facenet160, mine; name one"):
        next(opened.crops(opened.units[0]))


def test_crops_of_one_template_and_then_of_all_by_facemill_crop(
    made: tuple[Path, str], photos: Path, tmp_path: Path
) -> None:
    if open_output(Folder(str(made[0]))).store != "tar":
        pytest.skip("once is enough")
    tables = Folder(str(tmp_path / "out"))
    start(photos, tmp_path / "out", "align.template=mine")
    crops = crops_of(tmp_path / "out", "mine")
    assert len(crops) == NUM_PORTRAITS
    assert crops == crops_of(made[0], "mine")
    (template,) = open_output(tables).config.align.find_templates()
    assert (template.name, template.size_wh) == ("mine", (40, 40))
    config = crop_config(tables, templates=list(SIZES))
    request = RunRequest(inputs=(), tables=tables, output=Folder(str(tmp_path / "again")), config=config)
    assert run(request, out=io.StringIO(), err=io.StringIO()).account.num_crops == NUM_PORTRAITS
    for name in SIZES:
        assert crops_of(tmp_path / "again", name) == crops_of(made[0], name)


def test_another_template_of_the_same_name_is_refused(made: tuple[Path, str], photos: Path) -> None:
    store = open_output(Folder(str(made[0]))).store
    other = "align.own={mine: {kind: square, size: 40, margin: 0.4}}"
    with pytest.raises(ConfigError, match=r"align\.own\.mine\.margin is 0\.4 now and was 0\.5 there"):
        start(photos, made[0], TEMPLATES, f"write.crops={store}", other)


def test_the_crops_of_one_template_gone_are_missed_and_made_again(
    made: tuple[Path, str], photos: Path, tmp_path: Path
) -> None:
    if (store := open_output(Folder(str(made[0]))).store) == "files":
        pytest.skip("loose crops are too many to look at")
    output = shutil.copytree(made[0], tmp_path / "out")
    settings = (TEMPLATES, f"write.crops={store}")
    shard = sorted((output / "crops" / "ffhq256").iterdir())[0]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(OutputError, match=rf"{shard} is missing, though {shard.stem} was committed"):
        start(photos, output, *settings)
    (output / marker_name(shard.stem)).unlink()
    assert start(photos, output, *settings)[0].is_complete
    assert shard.read_bytes() == content


def test_what_interrupted_writers_left_is_swept_in_each_template(tmp_path: Path) -> None:
    write_loose(tmp_path, {"crops/a/u.tar": b"", "files/b/u/1.jpg": b""})
    write_loose(tmp_path, {f"{folder}/.x.1-2.tmp": b"" for folder in ("crops/a", "crops/b", "files/b/u", "images")})
    sweep_output(Folder(str(tmp_path)), ("a", "b"))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"crops/a/u.tar", "files/b/u/1.jpg"}


@pytest.mark.parametrize("store", ["tar", "none"])
def test_known_boxes_that_make_no_crop(store: str, photos: Path, tmp_path: Path) -> None:
    boxes = np.array([(50, 40, 100, 110), (60, 40, 60, 110), (100, 100, 200, 200), (300, 10, 350, 60)], np.float64)
    points = [60.0, 60.0, 90.0, 60.0, 75.0, 78.0, 64.0, 95.0, 86.0, 95.0]
    columns = {name: boxes[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    rows = {"image_id": ["photos/person_0/0000.jpg"] * 4, "score": [0.9] * 4, "landmarks": [points] * 4}
    pq.write_table(pa.table(rows | columns), tmp_path / "known.parquet")
    settings = [f"landmarks.known_faces={tmp_path / 'known.parquet'}", "align.template=[arcface112, square256]"]
    result, _ = start(photos, tmp_path / "out", *settings, f"write.crops={store}")
    assert result.is_complete
    faces = sorted(read_table(tmp_path / "out", "faces"), key=lambda row: row["face_index"])
    assert [row["reason"] for row in faces] == [None, "no_crop", None, "no_crop"]
    assert [row["kept"] for row in faces] == [True, False, True, False]
    if store == "tar":
        assert crops_of(tmp_path / "out", "square256").keys() == {faces[0]["crop"], faces[2]["crop"]}
