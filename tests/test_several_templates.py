"""Crops in several templates in one run: where they lie, that they are those of runs in each, and the balance."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import archive, read_table, write_loose
from PIL import Image

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.output_folder import sweep_output
from facemill.pipeline.outputs import open_output
from facemill.pipeline.run import RunRequest, RunResult, run
from facemill.transforms.ops.layout import CropStore, marker_name
from facemill.transforms.ops.storage import Folder

TEMPLATES = ("sphereface96x112", "ffhq256", "facenet160", "mine")
MINE = "{mine: {kind: square, size: 40, margin: 0.5}}"
SIZES = {"sphereface96x112": (96, 112), "ffhq256": (256, 256), "facenet160": (160, 160), "mine": (40, 40)}
NUM_PORTRAITS = 5


def start(inputs: Path, output: Path, *settings: str) -> tuple[RunResult, str]:
    out = io.StringIO()
    config = load_config(None, ["run.unit_files=4", f"align.own={MINE}", *settings])
    request = RunRequest(inputs=[str(inputs)], output=Folder(str(output)), config=config)
    return run(request, out=out, err=io.StringIO()), out.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loose(tmp_path_factory.mktemp("inputs") / "photos", archive(NUM_PORTRAITS))


def crops_of(output: Path, template: str) -> dict[str, bytes]:
    opened = open_output(Folder(str(output)))
    return dict(crop for unit in opened.units for crop in opened.crops(unit, template))


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The crops of runs in each template alone."""
    folder = tmp_path_factory.mktemp("alone")
    for template in TEMPLATES:
        start(photos, folder / template, f"align.template={template}")
    return {template: crops_of(folder / template, template) for template in TEMPLATES}


@pytest.fixture(scope="module", params=["tar", "files", "parquet"])
def made(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp(request.param) / "out"
    result, printed = start(photos, output, f"align.template={json.dumps(TEMPLATES)}", f"write.crops={request.param}")
    assert result.is_complete
    assert result.account.num_crops == NUM_PORTRAITS * len(TEMPLATES)
    return output, printed


def test_each_template_has_the_crops_of_a_run_of_its_own(
    made: tuple[Path, str], alone: dict[str, dict[str, bytes]]
) -> None:
    output, _ = made
    names = {row["crop"] for row in read_table(output, "faces") if row["kept"]}
    assert len(names) == NUM_PORTRAITS
    for template in TEMPLATES:
        crops = crops_of(output, template)
        assert crops.keys() == names
        assert {Image.open(io.BytesIO(content)).size for content in crops.values()} == {SIZES[template]}
        assert crops == alone[template]


def test_where_they_lie(made: tuple[Path, str]) -> None:
    output, printed = made
    store: CropStore = open_output(Folder(str(output))).store
    folder = "files" if store == "files" else "crops"
    assert {path.name for path in (output / folder).iterdir()} == set(TEMPLATES)
    assert f"5   crops: 4 of each, {folder}/TEMPLATE/" in printed
    units = open_output(Folder(str(output))).units
    assert len(units) == 2
    for template in TEMPLATES:
        there = {path.name for path in (output / folder / template).iterdir()}
        assert there == {unit + {"tar": ".tar", "parquet": ".parquet", "files": ""}[store] for unit in units}


def test_one_of_several_must_be_named(made: tuple[Path, str]) -> None:
    opened = open_output(Folder(str(made[0])))
    with pytest.raises(ConfigError, match="holds crops of sphereface96x112, ffhq256, facenet160, mine; name one"):
        next(opened.crops(opened.units[0]))


def test_the_crops_of_one_template_gone_are_missed_and_made_again(photos: Path, tmp_path: Path) -> None:
    settings = ("align.template=[arcface112, ffhq256]",)
    start(photos, tmp_path, *settings)
    shard = sorted((tmp_path / "crops" / "ffhq256").iterdir())[0]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(OutputError, match=rf"{shard} is missing, though {shard.stem} was committed"):
        start(photos, tmp_path, *settings)
    (tmp_path / marker_name(shard.stem)).unlink()
    assert start(photos, tmp_path, *settings)[0].is_complete
    assert shard.read_bytes() == content


def test_what_interrupted_writers_left_is_swept_in_each_template(tmp_path: Path) -> None:
    kept = write_loose(tmp_path, {"crops/a/u.tar": b"", "files/b/u/1.jpg": b""})
    write_loose(tmp_path, {f"{folder}/.x.1-2.tmp": b"" for folder in ("crops/a", "crops/b", "files/b/u", "images")})
    sweep_output(Folder(str(kept)), ("a", "b"))
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "crops/a/u.tar",
        "files/b/u/1.jpg",
    }


def test_an_own_template_is_part_of_the_manifest_and_of_the_result(photos: Path, tmp_path: Path) -> None:
    start(photos, tmp_path, "align.template=mine")
    opened = open_output(Folder(str(tmp_path)))
    (template,) = opened.config.align.find_templates()
    assert (template.name, template.size_wh) == ("mine", (40, 40))
    with pytest.raises(ConfigError, match=r"align\.own\.mine\.margin is 0\.4 now and was 0\.5 there"):
        start(photos, tmp_path, "align.template=mine", "align.own={mine: {kind: square, size: 40, margin: 0.4}}")


class TestKnownBoxes:
    """Boxes of a table may be anything; only what makes no crop in one of the templates is rejected."""

    POINTS = (60.0, 60.0, 90.0, 60.0, 75.0, 78.0, 64.0, 95.0, 86.0, 95.0)
    BOXES: ClassVar = {
        "fine": (50, 40, 100, 110),
        "over the edge": (100, 100, 200, 200),
        "no width": (60, 40, 60, 110),
        "inside out": (100, 110, 50, 40),
        "outside": (200, 10, 300, 60),
        "astronomic": (-1e30, -1e30, 1e30, 1e30),
    }

    def run(self, photos: Path, output: Path, *settings: str) -> list[dict[str, Any]]:
        boxes = np.array(list(self.BOXES.values()), np.float64)
        columns = {name: boxes[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
        rows = {"image_id": ["photos/person_0/0000.jpg"] * len(boxes), "score": [0.9] * len(boxes)}
        table = pa.table({**rows, **columns, "landmarks": [self.POINTS] * len(boxes)})
        pq.write_table(table, output.with_suffix(".parquet"))
        faces = f"landmarks.known_faces={output.with_suffix('.parquet')}"
        result, _ = start(photos, output, faces, *settings)
        assert result.is_complete
        return sorted(read_table(output, "faces"), key=lambda row: row["face_index"])

    def test_they_do_not_matter_to_a_template_of_points(self, photos: Path, tmp_path: Path) -> None:
        rows = self.run(photos, tmp_path / "out", "align.template=arcface112")
        assert [row["reason"] for row in rows] == [None] * 6

    @pytest.mark.parametrize("store", ["tar", "none"])
    @pytest.mark.parametrize("template", ["square256", "[arcface112, square256]"])
    def test_they_do_to_one_of_boxes(self, store: str, template: str, photos: Path, tmp_path: Path) -> None:
        rows = self.run(photos, tmp_path / "out", f"align.template={template}", f"write.crops={store}")
        assert [row["reason"] for row in rows] == [None, None, *["no_crop"] * 4]
        assert [row["kept"] for row in rows] == [True, True, *[False] * 4]
        if store == "tar":
            assert crops_of(tmp_path / "out", "square256").keys() == {row["crop"] for row in rows[:2]}

    def test_facenet_cuts_at_the_edges(self, photos: Path, tmp_path: Path) -> None:
        rows = self.run(photos, tmp_path / "out", "align.template=facenet160")
        assert [row["reason"] for row in rows] == [None, None, *["no_crop"] * 3, None]
