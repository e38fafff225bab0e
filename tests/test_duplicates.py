"""`facemill duplicates`: groups of hand-made tables, and of real photographs that were copied, compressed and cut."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import astronaut, jpeg, scenery, write_loose
from PIL import Image

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.cli import main
from facemill.pipeline.config import load_config
from facemill.pipeline.duplicates import DuplicatesOptions, GroupCounts, check_duplicates, find_duplicates
from facemill.pipeline.manifest import make_manifest
from facemill.pipeline.outputs import open_output
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.committing import UnitWriter
from facemill.transforms.ops.layout import marker_name
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.records import Faces, Failure, ImageRecord
from facemill.transforms.ops.storage import Folder

NEAR = DuplicatesOptions(near_distance=32)
BASE = int.from_bytes(np.random.default_rng(0).bytes(32), "big")
OTHER = int.from_bytes(np.random.default_rng(1).bytes(32), "big")


def near(base: int, *bits: int) -> int:
    """The hash with these bits turned."""
    for bit in bits:
        base ^= 1 << bit
    return base


class Photo(NamedTuple):
    """An input, with one face if it has a hash or is said to be without."""

    name: str
    label: str | None = "anna"
    content: str = ""  # in place of the file's SHA-256, its own name if empty
    phash: int | str | None = None  # as a number, or as the table is to have it
    is_kept: bool = True
    has_failed: bool = False
    sharpness: float = 0
    interocular_px: float = 1


def write_output(folder: Folder, *units: Sequence[Photo]) -> Folder:
    """An output folder with these units, as a run would leave it, without crops."""
    config = load_config(None, ["write.crops=none"])
    make_manifest(config, {"in": "in"}).write(folder)
    for number, photos in enumerate(units):
        writer = UnitWriter(folder, f"unit-{number}", config.write, config.fingerprint, config.align.templates)
        for index, photo in enumerate(photos):
            writer.add(record_of(index, photo))
        writer.commit(num_images=len(photos), started_at=time.time())
    return folder


def record_of(index: int, photo: Photo) -> ImageRecord:
    return ImageRecord(
        index,
        photo.name,
        photo.name,
        "",
        label=photo.label,
        sha256=photo.content or photo.name,
        faces=None if photo.has_failed else faces_of(photo),
        failure=Failure("truncated", "it ends early") if photo.has_failed else None,
    )


def faces_of(photo: Photo) -> Faces:
    return Faces(
        boxes=np.zeros((1, 4), np.float32),
        scores=np.ones(1, np.float32),
        landmarks=np.zeros((1, 5, 2), np.float32),
        angles_deg=np.zeros((1, 3), np.float32),
        interocular_px=np.array([photo.interocular_px], np.float32),
        quality=np.array([[photo.sharpness, *[0] * (len(QUALITY_COLUMNS) - 1)]], np.float32),
        phashes=(f"{photo.phash:064x}" if isinstance(photo.phash, int) else photo.phash,),
        reasons=("" if photo.is_kept else "yaw",),
        crops=(() if photo.is_kept else None,),
    )


def duplicates_of(folder: Folder, options: DuplicatesOptions = NEAR) -> tuple[GroupCounts, GroupCounts]:
    return find_duplicates(open_output(folder), options)


def rows(folder: Folder, table: str) -> list[tuple[Any, ...]]:
    with folder.fs.open(folder.join(f"duplicates/{table}.parquet"), "rb") as file:
        return [tuple(row.values()) for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


def test_equal_files_within_and_across_labels(folder: Folder) -> None:
    write_output(
        folder,
        [Photo("b", "anna", "one"), Photo("d", "bert", "two"), Photo("e", "bert")],
        [Photo("a", "anna", "one"), Photo("c", "cleo", "two"), Photo("f", "cleo", "two", has_failed=True)],
    )
    images, faces = duplicates_of(folder)
    # Groups of a size are numbered by their first member, and what failed is not compared.
    assert rows(folder, "images") == [
        ("a", "anna", "one", 1, 2, 1, 1),
        ("b", "anna", "one", 1, 2, 1, 2),
        ("c", "cleo", "two", 2, 2, 2, 1),
        ("d", "bert", "two", 2, 2, 2, 2),
    ]
    assert images == GroupCounts(num_compared=5, num_members=4, num_groups=2, num_across=1, largest=2)
    assert images.num_superfluous == 2
    assert (faces, rows(folder, "faces")) == (GroupCounts(num_compared=0), [])


def test_near_faces_within_and_across_labels(folder: Folder) -> None:
    write_output(
        folder,
        [Photo("a", "anna", phash=OTHER), Photo("b", "anna", phash=near(OTHER, *range(32)))],
        [Photo("c", "anna", phash=BASE), Photo("d", "bert", phash=BASE), Photo("e", "cleo", phash=BASE)],
        [Photo("f", "dora", phash=near(OTHER, *range(200, 233))), Photo("g", "dora")],
    )
    images, faces = duplicates_of(folder)
    found = rows(folder, "faces")
    assert found[:3] == [
        ("c#0", "c", "anna", 1, 3, 3, 0, 1),
        ("d#0", "d", "bert", 1, 3, 3, 0, 2),
        ("e#0", "e", "cleo", 1, 3, 3, 0, 3),
    ]
    # Of two that are as good, either may represent the other, and stands first.
    assert {row[:-2] for row in found[3:]} == {("a#0", "a", "anna", 2, 2, 1), ("b#0", "b", "anna", 2, 2, 1)}
    assert [row[-2:] for row in found[3:]] == [(0, 1), (32, 2)]
    assert faces == GroupCounts(num_compared=6, num_members=5, num_groups=2, num_across=1, largest=3)
    assert images == GroupCounts(num_compared=7)


def test_the_best_of_a_group_is_the_first(folder: Folder) -> None:
    quality = {
        "a": (math.nan, 0),  # the points of a table of faces may be one
        "b": (1.35, 20),  # 1.35 + 0.1 x 4.3 = 1.78
        "c": (1.30, 40),  # 1.30 + 0.1 x 5.3 = 1.83
        "d": (1.29, 40),
        "e": (1.10, 80),  # 1.10 + 0.1 x 6.3 = 1.73
        "f": (math.nan, 80),
    }
    photos = [
        Photo(name, phash=near(BASE, *range(3 * number)), sharpness=sharpness, interocular_px=interocular_px)
        for number, (name, (sharpness, interocular_px)) in enumerate(quality.items())
    ]
    write_output(folder, photos)
    duplicates_of(folder)
    # Distances are to the best, c, whose hash has the first 6 bits turned.
    assert [(row[1], *row[6:]) for row in rows(folder, "faces")] == [
        ("c", 0, 1),
        ("d", 3, 2),
        ("b", 3, 3),
        ("e", 6, 4),
        ("f", 9, 5),
        ("a", 6, 6),
    ]


def test_faces_that_are_not_kept_are_compared_when_asked(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(folder, [Photo("a", phash=BASE), Photo("b", phash=near(BASE, 7), is_kept=False)])
    others = "compared; the 1 not kept are left out, --all-faces compares them, too\n"
    assert others in duplicates_command(capsys, folder.uri)[1]
    assert rows(folder, "faces") == []
    assert "faces               2   compared\n" in duplicates_command(capsys, folder.uri, "--all-faces")[1]
    assert [row[0] for row in rows(folder, "faces")] == ["a#0", "b#0"]


def test_labels_that_are_not_known_do_not_count(folder: Folder) -> None:
    write_output(
        folder,
        [Photo(name, None, "same", BASE) for name in "ab"],
        [Photo(name, label, "other", OTHER) for name, label in (("c", None), ("d", "anna"))],
    )
    images, faces = duplicates_of(folder)
    assert images.num_across == faces.num_across == 0
    assert [(row[0], row[1], row[5]) for row in rows(folder, "images")] == [
        ("a", None, 0),
        ("b", None, 0),
        ("c", None, 1),
        ("d", "anna", 1),
    ]


def test_a_chain_does_not_join_strangers(folder: Folder) -> None:
    write_output(folder, [Photo(f"{step}", phash=near(BASE, *range(20 * step))) for step in range(9)])
    duplicates_of(folder, DuplicatesOptions(near_distance=20))
    groups: dict[int, list[int]] = {}
    for row in rows(folder, "faces"):
        groups.setdefault(row[3], []).append(int(row[1]))
    assert len(groups) >= 3
    assert all(max(members) - min(members) <= 2 for members in groups.values())


def test_ten_thousand_black_frames_are_one_group(folder: Folder) -> None:
    frames = [Photo(f"{number:05d}", f"film_{number % 7}", phash=0) for number in range(10_000)]
    write_output(folder, frames[:4000], frames[4000:], [Photo("x", phash=BASE), Photo("y", phash=near(0, 3))])
    _, faces = duplicates_of(folder)
    assert faces == GroupCounts(num_compared=10_002, num_members=10_001, num_groups=1, num_across=1, largest=10_001)
    found = rows(folder, "faces")
    assert len(found) == 10_001
    assert {row[3:6] for row in found} == {(1, 10_001, 8)}


@pytest.mark.parametrize("units", [(), ([],), ([Photo("a")],)], ids=["no units", "no rows", "no duplicates"])
def test_tables_without_a_row(folder: Folder, units: tuple[list[Photo], ...]) -> None:
    write_output(folder, *units)
    images, faces = duplicates_of(folder)
    assert images.num_members == faces.num_members == 0
    assert rows(folder, "images") == rows(folder, "faces") == []


def test_a_store_in_memory_gets_the_same_tables(folder: Folder) -> None:
    units = [[Photo("a", "anna", "one", BASE)], [Photo("b", "bert", "one", near(BASE, 1, 2)), Photo("c", phash=OTHER)]]
    remote = Folder("memory://duplicates/out")
    for place in (folder, remote):
        duplicates_of(write_output(place, *units))
    assert len(rows(folder, "faces")) == len(rows(folder, "images")) == 2
    for table in ("images", "faces"):
        assert rows(folder, table) == rows(remote, table)
    assert fsspec.filesystem("memory").exists("/duplicates/out/duplicates/faces.parquet")


def test_the_same_bytes_whatever_the_units(tmp_path: Path) -> None:
    photos = [Photo(f"{i:02d}", f"label_{i % 3}", f"{i % 11}", near(BASE, *range(i))) for i in range(40)]
    once, twice = Folder(str(tmp_path / "once")), Folder(str(tmp_path / "twice"))
    write_output(once, photos)
    write_output(twice, photos[25:], photos[:25])
    for output in (once, twice):
        duplicates_of(output, DuplicatesOptions(near_distance=12))
    for table in ("images", "faces"):
        assert len(rows(once, table)) >= 30
        assert rows(once, table) == rows(twice, table)


class TestCheck:
    """Whether the tables of duplicates are those of the folder as it is."""

    @pytest.fixture
    def made(self, folder: Folder) -> Folder:
        duplicates_of(write_output(folder, [Photo("a", phash=BASE)], [Photo("b", phash=BASE)]))
        return folder

    def test_what_is_current(self, made: Folder) -> None:
        assert check_duplicates(open_output(made), "faces") == NEAR
        assert check_duplicates(open_output(made), "images") == NEAR

    def test_there_is_none(self, folder: Folder) -> None:
        write_output(folder, [Photo("a")])
        with pytest.raises(
            ConfigError, match=f"no table of duplicates; make it with: facemill duplicates {folder.uri}"
        ):
            check_duplicates(open_output(folder), "faces")

    def test_a_unit_was_added(self, made: Folder) -> None:
        write_output(made, [Photo("a", phash=BASE)], [Photo("b", phash=BASE)], [Photo("c")])
        with pytest.raises(ConfigError, match="is older than the other tables; make it again with"):
            check_duplicates(open_output(made), "faces")

    def test_a_unit_was_taken_back(self, made: Folder) -> None:
        made.remove(marker_name("unit-1"))
        with pytest.raises(ConfigError, match="is older"):
            check_duplicates(open_output(made), "images")

    def test_a_unit_was_done_again_with_another_result(self, made: Folder) -> None:
        write_output(made, [Photo("a", phash=BASE)], [Photo("b", phash=BASE, is_kept=False)])
        with pytest.raises(ConfigError, match="is older"):
            check_duplicates(open_output(made), "faces")

    def test_it_is_damaged(self, made: Folder) -> None:
        made.write_bytes("duplicates/faces.parquet", b"PAR1")
        with pytest.raises(OutputError, match=r"cannot read \S+/duplicates/faces\.parquet"):
            check_duplicates(open_output(made), "faces")

    def test_its_metadata(self, made: Folder) -> None:
        metadata = json.loads(pq.read_schema(made.join("duplicates/images.parquet")).metadata[b"facemill"])
        assert metadata["near_distance"] == 32 and metadata["all_faces"] is False and metadata["num_units"] == 2
        assert metadata["fingerprint"] == open_output(made).manifest.fingerprint


@pytest.mark.parametrize("phash", ["abc", "g" * 64])
def test_a_hash_that_is_none_is_an_error(folder: Folder, phash: str) -> None:
    write_output(folder, [Photo("a", phash=BASE), Photo("b", phash=phash)])
    with pytest.raises(OutputError, match=f"cannot read the tables of {folder.uri}"):
        duplicates_of(folder)


@pytest.mark.parametrize("distance", [-1, 65])
def test_a_distance_that_cannot_be_is_refused(distance: int) -> None:
    with pytest.raises(ConfigError, match=rf"the near distance must lie in \[0, 64\], got {distance}"):
        DuplicatesOptions(near_distance=distance)


def half(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photograph as it was, copied, compressed, made smaller, cut and mirrored; and others."""
    portrait = np.ascontiguousarray(astronaut()[:288, 80:368])
    files = {
        "eileen/1.jpg": jpeg(portrait),
        "eileen/2.jpg": jpeg(portrait, quality=40),
        "eileen/mirrored.jpg": jpeg(np.ascontiguousarray(portrait[:, ::-1])),
        "somebody/copy.jpg": jpeg(portrait),
        "somebody/half.jpg": jpeg(half(portrait)),
        "somebody/cut.jpg": jpeg(portrait[10:, 20:]),
        "cups/1.jpg": scenery(0),
        "cups/2.jpg": scenery(0),
        "broken/1.jpg": jpeg(portrait)[:1500],
        "broken/2.jpg": jpeg(portrait)[:1500],
    }
    return write_loose(tmp_path_factory.mktemp("duplicates") / "photos", files)


@pytest.fixture(scope="module", params=["tar", "none"])
def made(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(request.param) / "out"
    config = load_config(None, [f"write.crops={request.param}", "run.unit_files=4", "align.template=ffhq256"])
    run(RunRequest(inputs=[str(photos)], output=Folder(str(output)), config=config))
    return output


def duplicates_command(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> tuple[int, str, str]:
    code = main(["duplicates", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_real_photographs(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = (made / "report.html").read_bytes()
    assert duplicates_command(capsys, made, "--no-report")[0] == 0
    assert (made / "report.html").read_bytes() == report
    code, out, err = duplicates_command(capsys, made)
    assert (code, err) == (0, "")
    assert b"Duplicates" in (made / "report.html").read_bytes()
    assert b"Duplicates" not in report
    folder = Folder(str(made))
    assert [row[:2] + row[3:6] for row in rows(folder, "images")] == [
        ("photos/cups/1.jpg", "cups", 1, 2, 1),
        ("photos/cups/2.jpg", "cups", 1, 2, 1),
        ("photos/eileen/1.jpg", "eileen", 2, 2, 2),
        ("photos/somebody/copy.jpg", "somebody", 2, 2, 2),
    ]
    near_faces = rows(folder, "faces")
    assert {row[1] for row in near_faces} == {
        *(f"photos/eileen/{name}.jpg" for name in "12"),
        *(f"photos/somebody/{name}.jpg" for name in ("copy", "half", "cut")),
    }
    assert {row[3:6] for row in near_faces} == {(1, 5, 2)}
    # Not the half-size copy, nor that of a lower quality; the equal files are in the order of their names.
    places = [row[1] for row in near_faces]
    assert places[:2] == ["photos/eileen/1.jpg", "photos/somebody/copy.jpg"]
    assert places[-1] == "photos/somebody/half.jpg"
    assert near_faces[0][6] == near_faces[1][6] == 0 and 0 < near_faces[-1][6] <= 64
    *lines, last = out.splitlines()
    assert last == f"report    {made}/report.html"
    counts = [int(line[12:21].replace(",", "")) for line in lines]
    assert counts == [8, 2, 1, 1, 4, 2, 6, 1, 0, 1, 5, 4]


def test_groups_are_drawn(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    code, out, err = duplicates_command(capsys, made, "--draw", sheet)
    if made.parent.name.startswith("none"):
        assert code == 2 and "--draw needs crops" in err
        assert not sheet.exists()
        return
    assert code == 0 and f"groups of faces: {sheet}" in out
    picture = np.asarray(Image.open(sheet))
    tiles = [picture[4:116, 4 + 116 * column : 116 + 116 * column] for column in range(8)]
    assert [len(np.unique(tile)) > 50 for tile in tiles] == [True] * 5 + [False] * 3
    assert picture.shape[0] < 150  # one row
    code, out, _ = duplicates_command(capsys, made, "--draw", sheet, "--near-distance", "0", "--draw-groups", "1")
    picture = np.asarray(Image.open(sheet))
    assert [len(np.unique(picture[4:116, x : x + 112])) > 50 for x in (4, 120, 236, 352)] == [True, True, False, False]


@pytest.mark.parametrize("name", ["sheets/", "."])
def test_a_sheet_needs_a_file_name(
    folder: Folder, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_output(folder, [Photo("a")])
    code, _, err = duplicates_command(capsys, folder.uri, "--draw", name)
    assert (code, err) == (2, f"facemill: --draw {name} names a folder; name a file\n")
    code, _, err = duplicates_command(capsys, folder.uri, "--draw", "sheet.txt")
    assert (code, err) == (2, "facemill: --draw sheet.txt: name a file that ends in .png\n")
    assert not folder.exists("duplicates")


def test_an_export_takes_one_of_each_group(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, export = tmp_path / "out", ["--to", "csv", "--drop-duplicates", "near"]
    request = RunRequest(inputs=[str(photos)], output=Folder(str(output)), config=load_config())
    run(request)
    assert duplicates_command(capsys, output)[0] == 0
    assert main(["export", str(output), "--output", str(tmp_path / "once"), *export]) == 0
    assert re.search(r"left out +4 +near duplicates", capsys.readouterr().out)
    write_loose(photos, {"eileen/3.jpg": jpeg(astronaut()[:288, 80:368], quality=70)})
    run(request)
    assert main(["export", str(output), "--output", str(tmp_path / "twice"), *export]) == 2
    assert f"make it again with: facemill duplicates {output}" in capsys.readouterr().err
