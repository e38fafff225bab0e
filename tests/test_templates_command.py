"""`facemill templates`: the list, the JSON and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pictures import astronaut, coffee
from PIL import Image

from facemill.pipeline.cli import main
from facemill.pipeline.template_files import load_templates
from facemill.transforms.ops.alignment import CropError
from facemill.transforms.ops.template_drawing import cut_tile, draw_template
from facemill.transforms.ops.templates import TEMPLATE_NAMES, get_template

LANDMARKS = np.array([[203.5, 101], [246.5, 103], [224.5, 126.5], [203.5, 140], [243.5, 140.5]])
BOX = np.array([179.0, 61.0, 266.0, 173.0])


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TEMPLATE_NAMES)
    assert lines[1].split()[:3] == ["sphereface96x112", "96x112", "points"]
    assert all(len(line.split()) > 4 for line in lines), "each has a source"


def test_the_json_is_a_file_of_templates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert list(described) == list(TEMPLATE_NAMES)
    assert described["facenet160"]["margin"] == 32
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({f"my-{name}": definition for name, definition in described.items()}))
    for name, definition in load_templates(str(path)).items():
        own, ours = definition.to_template(name), get_template(name.removeprefix("my-"))
        assert (own.kind, own.size_wh, own.source) == (ours.kind, ours.size_wh, ours.source)


def test_one_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("loose: {kind: square, size: 64, source: a friend}")
    for option in ([], ["--template"]):
        assert main(["templates", "ffhq256", *option, str(tmp_path / "own.yaml")]) == 0
        assert capsys.readouterr().out.splitlines()[1].split() == ["loose", "64x64", "square", "a", "friend"]


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_sheet(ending: str, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / f"sheet.{ending}"
    assert main(["templates", "--draw", str(sheet)]) == 0
    # Two rows of five tiles of 224 px, each with a caption of 16 px, 4 px between them.
    with Image.open(sheet) as picture:
        assert picture.size == (5 * 228 + 4, 2 * 244 + 4)


def test_the_crops_of_a_picture(tmp_path: Path) -> None:
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    arguments = ["templates", "arcface112", "facenet160", "--image", str(tmp_path / "photo.png"), "--draw"]
    assert main([*arguments, str(tmp_path / "sheet.png")]) == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (4 + 244, 4 + 2 * 228, 3)
    tile = sheet[4:228, 4:228].astype(float)
    expected = cut_tile(astronaut(), BOX, LANDMARKS, get_template("arcface112"), height_px=224)
    assert np.abs(tile - expected).mean() < 12
    assert np.abs(sheet[4:228, 232:456] - expected.astype(float)).mean() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draw", "sheet.gif"], "--draw sheet.gif: the name must end with .png, .jpg, .jpeg"),
        (["--image", "cup.png"], "--image goes with --draw FILE"),
        (["--draw", "sheet.png", "--image", "cup.png"], "no face is found in cup.png"),
        (["--draw", "sheet.png", "--image", "nowhere.png"], "cannot read the picture nowhere.png"),
        (["--draw", "sheet.png", "--image", "text.png"], "cannot read the picture text.png: unsupported_format"),
        (["arcface"], "got 'arcface'; did you mean arcface112?"),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(coffee()[:144, :144]).save("cup.png")
    Path("text.png").write_text("no picture")
    assert main(["templates", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("sheet.png").exists()


def test_a_drawing_has_its_points_where_the_template_has_them() -> None:
    drawn = draw_template(get_template("sphereface96x112"), height_px=224).astype(int)
    assert drawn.shape == (224, 192, 3)
    yellow = (np.abs(drawn - (255, 255, 0)).sum(axis=2) < 60).nonzero()
    # The left eye at 30.2946, 51.6963, twice as large.
    np.testing.assert_allclose([yellow[1].mean(), yellow[0].mean()], [2 * 30.7946 - 0.5, 2 * 52.1963 - 0.5], atol=1)


def test_a_drawing_of_boxes_has_the_box() -> None:
    """facenet160 for a face of 128 px: with 16 px more on each side, its width is 128 of 160 px."""
    drawn = draw_template(get_template("facenet160"), height_px=160).astype(int)
    green = (np.abs(drawn - (80, 255, 80)).sum(axis=2) < 30).nonzero()
    assert abs(green[1].min() - 16) <= 2 and abs(green[1].max() - 144) <= 2


def test_a_tile_of_a_face_beside_the_picture() -> None:
    with pytest.raises(CropError, match="nothing of the picture"):
        cut_tile(astronaut(), BOX, LANDMARKS + 2000, get_template("arcface112"), height_px=100)
