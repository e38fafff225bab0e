"""`facemill detect`: what it prints and draws, for one image, many, folders, globs, URLs and standard input."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import astronaut, jpeg, portrait, scenery, write_loose
from PIL import Image
from web import web_server

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.detect import detect_images

# Read off the photograph by eye; good to about 3 px.
ASTRONAUT = {
    "left_eye": (204.6, 101.1),
    "right_eye": (246.9, 102.9),
    "nose": (225, 127),
    "mouth_left": (204.3, 140.3),
    "mouth_right": (244, 141.4),
}


def detect(*images: Path | str, settings: tuple[str, ...] = (), **options: Any) -> tuple[bool, str, str]:
    """Whether all could be read, and what was written to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    config = load_config(None, settings)
    done = detect_images([str(image) for image in images], config=config, out=out, err=err, **options)
    return done, out.getvalue(), err.getvalue()


def lines(out: str) -> dict[str, Any]:
    """The faces or the error of each line, by the image's file name."""
    parsed = [json.loads(line) for line in out.splitlines()]
    return {Path(line.pop("image")).name: line for line in parsed}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"a.jpg": portrait(0), "sub/b.jpg": scenery(0), "notes.txt": b"a sidecar"}
    return write_loose(tmp_path_factory.mktemp("detect") / "photos", files)


def test_the_schema_of_the_mtcnn_package(tmp_path: Path) -> None:
    picture = write_loose(tmp_path, {"a.jpg": jpeg(astronaut(), quality=95)}) / "a.jpg"
    done, out, err = detect(picture, settings=("detect.min_face_size_px=40",))
    assert (done, err) == (True, "")
    (face,) = json.loads(out)
    assert list(face) == ["box", "confidence", "keypoints"]
    x, y, width, height = face["box"]
    assert np.abs(np.subtract(face["box"], (176, 64, 92, 112))).max() < 12
    assert 0.99 < face["confidence"] <= 1
    assert list(face["keypoints"]) == list(ASTRONAUT)
    for name, expected in ASTRONAUT.items():
        found = face["keypoints"][name]
        assert np.abs(np.subtract(found, expected)).max() < 5, name
        assert x < found[0] < x + width and y < found[1] < y + height


def test_a_single_image_is_a_list_and_several_are_a_line_each(photos: Path) -> None:
    first, second = photos / "a.jpg", photos / "sub" / "b.jpg"
    (face,) = json.loads(detect(first)[1])
    assert json.loads(detect(second)[1]) == []
    assert lines(detect(first, second)[1]) == {"a.jpg": {"faces": [face]}, "b.jpg": {"faces": []}}


@pytest.mark.parametrize("way", ["", "/**/*.jpg"])
def test_folders_and_globs_are_a_line_for_each_image(way: str, photos: Path) -> None:
    done, out, err = detect(f"{photos}{way}")
    assert (done, err) == (True, "")
    found = lines(out)
    assert {name: len(line["faces"]) for name, line in found.items()} == {"a.jpg": 1, "b.jpg": 0}
    assert [json.loads(line)["image"] for line in out.splitlines()] == [f"{photos}/a.jpg", f"{photos}/sub/b.jpg"]


@pytest.mark.parametrize(
    "way",
    [
        "sub",
        "sub/*.jpg",
        "g",
    ],
)
def test_a_folder_or_glob_with_one_image_is_still_a_line(way: str, tmp_path: Path) -> None:
    write_loose(tmp_path, {"sub/b.jpg": scenery(0), "g/photo.jpg": scenery(0)})
    _, out, _ = detect(tmp_path / way)
    assert [line["faces"] for line in lines(out).values()] == [[]]


def test_the_same_image_twice_is_two_lines(photos: Path) -> None:
    _, out, _ = detect(photos / "a.jpg", photos / "a.jpg")
    first, second = out.splitlines()
    assert first == second


def test_a_broken_image_among_others(photos: Path, tmp_path: Path) -> None:
    write_loose(tmp_path, {"1.jpg": b"no picture", "2.jpg": portrait(0)[:1500], "3.jpg": b"", "4.jpg": portrait(0)})
    done, out, err = detect(tmp_path)
    assert not done
    found = lines(out)
    assert [line.get("error", {}).get("reason") for line in found.values()] == [
        "unsupported_format",
        "truncated",
        "empty",
        None,
    ]
    assert len(found["4.jpg"]["faces"]) == 1
    assert len(err.splitlines()) == 3
    assert err.startswith(f"facemill: {tmp_path}/1.jpg: unsupported_format: ")


def test_a_single_broken_image_is_a_message_and_no_json(tmp_path: Path) -> None:
    write_loose(tmp_path, {"1.jpg": b"no picture"})
    done, out, err = detect(tmp_path / "1.jpg")
    assert (done, out) == (False, "")
    assert err.startswith(f"facemill: {tmp_path}/1.jpg: unsupported_format: ")


def test_an_image_that_does_not_exist_is_refused_before_any_is_read(photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"no input at .*/nothing\.jpg"):
        detect(photos / "a.jpg", photos / "nothing.jpg")


@pytest.mark.parametrize("way", ["empty", "*.png", "notes.txt"])
def test_what_holds_no_image_is_not_passed_over_in_silence(way: str, tmp_path: Path) -> None:
    write_loose(tmp_path, {"notes.txt": b"a sidecar"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no image"):
        detect(tmp_path / way)


def test_standard_input_from_a_shell(photos: Path) -> None:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "detect", "-"]
    with open(photos / "a.jpg", "rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == json.loads(detect(photos / "a.jpg")[1])


def test_standard_input_among_others_and_broken(photos: Path) -> None:
    done, out, err = detect("-", photos / "a.jpg", standard_input=io.BytesIO(b"no picture"))
    assert not done
    assert lines(out)["-"]["error"]["reason"] == "unsupported_format"
    assert len(lines(out)["a.jpg"]["faces"]) == 1
    assert err.startswith("facemill: -: unsupported_format: ")


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    with web_server(photos) as address:
        yield address


@pytest.mark.parametrize("query", ["", "?size=large", "?X-Amz-Signature=0123"])
def test_a_url(query: str, server: str, photos: Path) -> None:
    done, out, err = detect(f"{server}/a.jpg{query}")
    assert (done, err) == (True, "")
    assert out == detect(photos / "a.jpg")[1]


def test_a_url_that_leads_nowhere(server: str) -> None:
    with pytest.raises(ConfigError, match=f"no input at {server}/nothing.jpg"):
        detect(f"{server}/nothing.jpg")


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Width and height of every picture below a folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with Image.open(path) as picture:
            found[str(path.relative_to(folder))] = picture.size
    return found


def test_pictures_are_drawn_in_their_size_and_below_their_folders(tmp_path: Path) -> None:
    wide = np.zeros((60, 90, 3), np.uint8)
    bitmap = io.BytesIO()
    Image.fromarray(wide).save(bitmap, "BMP")
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {"a.JPG": portrait(0), "sub/b.bmp": bitmap.getvalue(), "sub/turned.jpg": jpeg(wide, exif=exif), "c": b"x"}
    photos = write_loose(tmp_path / "photos", files)
    detect(photos, draw_folder=str(tmp_path / "drawn"))
    assert sizes(tmp_path / "drawn") == {"a.JPG": (144, 144), "sub/b.bmp.png": (90, 60), "sub/turned.jpg": (60, 90)}


def test_a_face_is_drawn_and_the_rest_of_the_picture_left_alone(photos: Path, tmp_path: Path) -> None:
    detect(photos, draw_folder=str(tmp_path))

    def change(name: str) -> np.ndarray:
        before, after = (np.asarray(Image.open(folder / name)).astype(int) for folder in (photos, tmp_path))
        return np.abs(after - before).max(axis=2)

    with_face = change("a.jpg")
    assert (with_face > 60).sum() > 100
    assert with_face[:, 115:].max() < 40, "the face ends at 95"
    assert change("sub/b.jpg").max() < 40


def test_drawn_pictures_of_one_name_do_not_collide(tmp_path: Path) -> None:
    shapes = {"a/1.jpg": (20, 21), "b/1.jpg": (22, 23), "c/1-2.jpg": (24, 25), "d/1.jpg": (26, 27)}
    write_loose(tmp_path, {name: jpeg(np.zeros((*shape, 3), np.uint8)) for name, shape in shapes.items()})
    detect(*(tmp_path / name for name in shapes), draw_folder=str(tmp_path / "drawn"))
    drawn = sizes(tmp_path / "drawn")
    assert len(drawn) == 4
    assert {(height, width) for width, height in drawn.values()} == set(shapes.values())


def test_standard_input_is_drawn(tmp_path: Path) -> None:
    detect("-", standard_input=io.BytesIO(portrait(0)), draw_folder=str(tmp_path))
    assert sizes(tmp_path) == {"standard-input.png": (144, 144)}


def test_drawing_into_the_folder_of_the_photographs_does_not_destroy_them(tmp_path: Path) -> None:
    original = portrait(0)
    photos = write_loose(tmp_path / "photos", {"1.jpg": original})
    with contextlib.suppress(ConfigError):  # to refuse is right, to draw under another name as well
        detect(photos / "1.jpg", draw_folder=str(photos))
    assert (photos / "1.jpg").read_bytes() == original


def test_a_picture_that_cannot_be_written_is_one_clear_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"/file is a file; name a folder"):
        detect(photos / "a.jpg", draw_folder=str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot write .*/file/below/a\.jpg: Not a directory"):
        detect(photos / "a.jpg", draw_folder=str(tmp_path / "file" / "below"))
