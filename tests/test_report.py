"""The report of real runs and of made outputs, as a file; what a browser makes of it is in test_report_browser.py."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import archive, jpeg, portrait, write_loose, write_tar
from tables_of_rows import Row, face_row, image_row, write_output

from facemill.models.errors import FAILURE_REASONS, ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.duplicates import DuplicatesOptions, find_duplicates
from facemill.pipeline.outputs import open_output
from facemill.pipeline.report.make import ReportOptions, make_report
from facemill.pipeline.report.page import make_environment
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.crops import encode_crop, open_crop_writer
from facemill.transforms.ops.layout import template_folders
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.verdict import VERDICT_REASONS

FILES = archive(9)
MAX_PAGE_BYTES = 5_000_000


def start(inputs: list[Path], output: Path | str, *settings: str, **options: Any) -> tuple[bool, str, str]:
    """Run; whether it is complete, and its two outputs."""
    config = load_config(None, ["run.unit_files=5", *settings])
    out, err = io.StringIO(), io.StringIO()
    request = RunRequest(inputs=[str(path) for path in inputs], output=Folder(str(output)), config=config, **options)
    return run(request, out=out, err=err).is_complete, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loose(tmp_path_factory.mktemp("inputs") / "photos", FILES)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An output folder of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("outputs") / "out"
    shard = write_tar(
        folder.parent / "shards" / "more.tar", {"person_9/a.jpg": portrait(20), "cut.jpg": portrait(1)[:900]}
    )
    is_complete, out, err = start([photos, shard.parent], folder)
    assert is_complete, err
    return folder, out


def text_of(page: str) -> str:
    """What the page says outside of styles, scripts and attributes, with single spaces."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def rows_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_a_run_ends_with_a_report(made: tuple[Path, str]) -> None:
    folder, out = made
    assert out.splitlines()[-1] == f"report    {folder}/report.html"
    page = (folder / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "14 inputs from 2 archives gave 10 faces ." in text
    assert "Everything is accounted for." in text
    for words in (
        "All inputs 14 100 %",
        "No face 1",
        "Failed 3",
        "truncated 2",
        "unsupported_format 1",
        "All faces 10",
    ):
        assert words in text
    assert "6 labels" in text and "1 input has no label" in text and "person_9" in text
    assert "Every value is the default's" not in text and "run.unit_files 5 default 2000" in text
    assert text.count("Score") >= 1 and "Sharpness" in text
    assert page.count('src="data:image/jpeg;base64,') == 13, "10 kept, 1 without a face, 2 that are cut off"
    assert len(rows_of(page)) == 14


def test_the_rows_are_those_of_the_tables(made: tuple[Path, str]) -> None:
    rows = rows_of((made[0] / "report.html").read_text(encoding="utf-8"))
    (face, image) = rows["kept-1"]
    assert (face[0], image[0]) == ("Face", "Input")
    values = dict(face[1])
    assert values["face_id"] == values["image_id"] + "#0"
    assert values["kept"] == "true" and values["reason"] is None
    assert 0.7 < float(values["score"]) <= 1
    assert values["landmarks"].startswith("left eye ")
    assert dict(image[1])["format"] == "JPEG"
    failures = {dict(rows[key][0][1])["reason"] for key in rows if key.startswith("failed-")}
    assert failures == {"truncated", "unsupported_format"}


def test_the_page_needs_and_allows_nothing_else(made: tuple[Path, str]) -> None:
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert "unsafe" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/jpeg|#)[^"']*""", page)
    assert not re.search(r"<[^>]+\s(?:style|on\w+)=", re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL))
    assert "@import" not in page and "url(" not in page


def test_the_same_output_gives_the_same_bytes(made: tuple[Path, str], tmp_path: Path) -> None:
    first = (made[0] / "report.html").read_bytes()
    written = make_report(Folder(str(made[0])), target=(Folder(str(tmp_path)), "page.html"))
    assert written == f"{tmp_path}/page.html"
    assert (tmp_path / "page.html").read_bytes() == first
    make_report(Folder(str(made[0])), ReportOptions(num_samples=3), target=(Folder(str(tmp_path)), "few.html"))
    few = rows_of((tmp_path / "few.html").read_text(encoding="utf-8"))
    assert sum(key.startswith("kept-") for key in few) == 3
    make_report(Folder(str(made[0])), ReportOptions(num_samples=3, seed=5), target=(Folder(str(tmp_path)), "few.html"))
    assert rows_of((tmp_path / "few.html").read_text(encoding="utf-8")) != few


def test_a_run_with_nothing_to_do_leaves_the_report(made: tuple[Path, str], photos: Path) -> None:
    page = made[0] / "report.html"
    before = page.stat().st_mtime_ns
    _, out, _ = start([photos], made[0])
    assert page.stat().st_mtime_ns == before
    assert out.splitlines()[-1] == f"report    {page}"
    page.unlink()
    start([photos], made[0])
    assert page.exists()


@pytest.mark.parametrize("way", ["setting", "option"])
def test_a_run_can_do_without(photos: Path, tmp_path: Path, way: str) -> None:
    few = write_loose(tmp_path / "few", {"1.jpg": portrait(1)})
    settings = ["run.report=false"] if way == "setting" else []
    _, out, _ = start([few], tmp_path / "out", *settings, report=way == "setting")
    assert "report" not in out
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_report_that_cannot_be_written_costs_the_run_nothing(tmp_path: Path) -> None:
    few = write_loose(tmp_path / "few", {"1.jpg": portrait(1)})
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    is_complete, out, err = start([few], tmp_path / "out")
    assert is_complete
    assert "units             1   of 1 committed" in out
    warning = err.splitlines()[-1]
    assert warning.startswith("warning: the report could not be made (") and "cannot write" in warning
    assert f"facemill report {tmp_path}/out tries it again" in warning


def test_an_unfinished_output_says_so(tmp_path: Path) -> None:
    units = [Unit(f"unit-{i:06d}", "files", (f"a/{i}.jpg",), (1,), 1) for i in range(3)]
    output = write_output(tmp_path / "out", [image_row("a/0.jpg")], units=units)
    make_report(output)
    text = text_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "Not finished. 1 of 3 planned units are committed" in text


def test_tables_that_were_changed_are_told(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [image_row("a/0.jpg"), image_row("a/1.jpg")])
    marker = tmp_path / "out" / "_units" / "unit-000000.json"
    marker.write_text(marker.read_text().replace('"num_images": 2', '"num_images": 3'))
    make_report(output)
    text = text_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "It does not balance." in text and "Everything is accounted for" not in text


def test_a_store_holds_its_report(tmp_path: Path) -> None:
    images = [image_row(f"a/{i}.jpg", unit=f"unit-{i:06d}") for i in range(5)]
    local = write_output(tmp_path / "out", images, [face_row("a/0.jpg")])
    make_report(local)
    store = fsspec.filesystem("memory")
    store.put(f"{local.path}/", "/reports/out", recursive=True)
    store.rm("/reports/out/report.html")
    assert make_report(Folder("memory://reports/out")) == "memory://reports/out/report.html"
    page = store.cat_file("/reports/out/report.html").decode()
    assert page.replace("memory://reports/out", local.path) == (tmp_path / "out" / "report.html").read_text()
    store.rm("/reports/out/faces/unit-000003.parquet")
    with pytest.raises(OutputError, match="cannot read the tables of memory://reports/out: "):
        make_report(Folder("memory://reports/out"))


def write_with_crops(folder: Path, *settings: str) -> str:
    """The page on two kept faces, whose crops are those of the settings."""
    config = load_config(None, settings)
    photos = write_loose(folder / "photos", {"1.jpg": portrait(1), "2.jpg": portrait(2)})
    has_crops = config.write.crops != "none"
    ids = ["photos/1.jpg", "photos/2.jpg"]
    faces = [face_row(image_id, crop=f"crop-{i}.jpg" if has_crops else None) for i, image_id in enumerate(ids)]
    unit = Unit("unit-000000", "files", tuple(ids), (1, 1), 1)
    images = [image_row(image_id) for image_id in ids]
    inputs = {"photos": photos.as_uri()}
    output = write_output(folder / "out", images, faces, inputs=inputs, units=[unit], settings=settings)
    templates = config.align.find_templates()
    for place, template in zip(template_folders(config.align.templates), templates, strict=True):
        crop = encode_crop(np.full((*template.size_wh[::-1], 3), 90, np.uint8), config.write)
        writer = open_crop_writer(output, unit.name, config.write.crops, place)
        for i in range(2):
            writer.add(f"crop-{i}.jpg", crop, None)
        writer.commit()
    make_report(output)
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("store", ["tar", "files", "parquet", "none"])
def test_kept_faces_are_shown_however_they_are_stored(tmp_path: Path, store: str) -> None:
    page = write_with_crops(tmp_path, f"write.crops={store}")
    assert page.count("<img ") == 2
    assert page.count("<circle ") == 10
    assert ('viewBox="0 0 112 112"' in page) == (store != "none")
    assert page.count('class="box"') == (2 if store == "none" else 0), "crops hide most of the box"
    assert "Some pictures are missing" not in page


def test_of_several_templates_the_first_is_shown(tmp_path: Path) -> None:
    page = write_with_crops(tmp_path, "align.template=[ffhq512, arcface112]")
    assert page.count('viewBox="0 0 512 512"') == 2
    assert page.count("<circle ") == 10


def test_crops_that_are_gone_are_shown_from_the_originals(tmp_path: Path) -> None:
    write_with_crops(tmp_path)
    shutil.rmtree(tmp_path / "out" / "crops")
    make_report(Folder(str(tmp_path / "out")))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 and page.count('class="box"') == 2
    assert "Some pictures are missing" not in page
    shutil.rmtree(tmp_path / "photos")
    make_report(Folder(str(tmp_path / "out")))
    text = text_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert (
        "Some pictures are missing. The input photos" in text and "The crops of unit-000000 could not be read" in text
    )


def test_the_longest_page_is_below_five_megabytes(tmp_path: Path) -> None:
    """All reasons, noise that no JPEG makes small, and names of 4,000 characters that HTML must escape."""
    random = np.random.default_rng(0)
    noise = [jpeg(random.integers(0, 256, (64, 64, 3), np.uint8), quality=95) for _ in range(4)]
    reasons = [*VERDICT_REASONS, "no_crop", *(f"another_{i}" for i in range(4))]
    names = [f"{i:04d}/" + "<&\"'>" * 800 + ".jpg" for i in range(24 * 30)]
    shard = write_tar(tmp_path / "in" / "s.tar", {name: noise[i % 4] for i, name in enumerate(names)})
    unit = Unit("unit-000000", "tar", ("in/s.tar",), (shard.stat().st_size,), 1)
    images: list[Row] = []
    faces: list[Row] = []
    for i, name in enumerate(names):
        values = {"source": "in/s.tar", "member": name, "label": name, "width": 64, "height": 64}
        images.append(image_row(f"in/s.tar/{name}", **values))
        if i < 24 * len(reasons):
            faces.append(face_row(f"in/s.tar/{name}", reason=reasons[i % len(reasons)], label=name))
        elif i % 2:
            failure = FAILURE_REASONS[i // 2 % len(FAILURE_REASONS)]
            images[-1] |= {"status": "failed", "reason": failure, "message": name, "format": name[:50]}
    inputs = {"in": f"{shard.parent.as_uri()}"}
    output = write_output(tmp_path / "out", images, faces, inputs=inputs, units=[unit])
    make_report(output)
    content = (tmp_path / "out" / "report.html").read_bytes()
    page = content.decode()
    assert len(rows_of(page)) > 280
    assert page.count("<img ") > 220
    assert len(content) < MAX_PAGE_BYTES


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "facemill.pipeline.cli", "report", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_command(made: tuple[Path, str], tmp_path: Path) -> None:
    done = command(str(made[0]), "--output", "page.html", "--samples", "2", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"report: {tmp_path}/page.html\n", "")
    assert len(rows_of((tmp_path / "page.html").read_text(encoding="utf-8"))) == 2 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere is no output folder of facemill: it holds no manifest.json"),
        (["begun"], 2, "begun holds nothing to report on yet: no unit is committed"),
        (["OUT", "--samples", "0"], 2, "argument --samples: must be at least 1, got 0"),
        (["OUT", "--output", "folder"], 1, "cannot write"),
        (["OUT", "--output", "folder/"], 2, "--output folder/ names no file"),
    ],
)
def test_wrong_usage(made: tuple[Path, str], tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "folder").mkdir()
    write_output(tmp_path / "begun", [])
    done = command(*(str(made[0]) if word == "OUT" else word for word in arguments), folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_whatever_a_template_prints_is_escaped_and_seen() -> None:
    template = make_environment().from_string("<p title='{{ name }}'>{{ name }} {{ number }}</p>")
    shown = "\\u202e&lt;b&gt;&#39;"
    assert template.render(name="\u202e<b>'", number=2) == f"<p title='{shown}'>{shown} 2</p>"


def test_nothing_to_report_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no unit is committed"):
        make_report(write_output(tmp_path / "out", []))


def test_duplicates_are_shown_and_told_when_they_are_out_of_date(tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    photos = write_loose(tmp_path / "photos", dict(zip(names, map(portrait, (1, 1, 2)), strict=True)))
    images = [image_row(f"photos/{n}", label=n[0], sha256=n[2] * 64) for n in names]
    faces = [face_row(f"photos/{n}", label=n[0], phash=n[2] * 64) for n in names]
    unit = Unit("unit-000000", "files", tuple(f"photos/{n}" for n in names), (1,) * 3, 1)
    output = write_output(tmp_path / "out", images, faces, inputs={"photos": f"file://{photos}"}, units=[unit])
    find_duplicates(open_output(output), DuplicatesOptions(near_distance=32))
    make_report(output)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "Equal to the byte: 2 inputs in 1 group, 1 of these across labels." in text
    assert "Perceptual hashes that are near: 2 faces in 1 group, 1 of these across labels." in text
    assert "stays, a, 1.jpg" in text and "b, 1.jpg" in text
    assert "are shown" not in text
    assert "2 inputs , 2 labels" in text or "2 inputs, 2 labels" in text
    assert "Out of date" not in text
    rows = rows_of(page)
    assert dict(rows["duplicate-faces-1-1"][0][1])["face_id"] == "photos/a/1.jpg#0"
    assert dict(rows["duplicate-images-1-2"][0][1])["image_id"] == "photos/b/1.jpg"
    assert page.partition('id="duplicates"')[2].count("<img ") == 4
    marker = tmp_path / "out" / "_units" / "unit-000000.json"
    marker.write_text(marker.read_text().replace('"num_kept": 3', '"num_kept": 2'))
    make_report(output)
    assert "Out of date." in text_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("damage", ["cut", "zeros", "other"])
def test_damaged_duplicates_cost_their_section_alone(damage: str, tmp_path: Path) -> None:
    names = ["photos/a.jpg", "photos/b.jpg"]
    images, faces = [image_row(name) for name in names], [face_row(name, phash="0" * 64) for name in names]
    output = write_output(tmp_path / "out", images, faces)
    find_duplicates(open_output(output), DuplicatesOptions(near_distance=32))
    table = tmp_path / "out" / "duplicates" / "faces.parquet"
    content = table.read_bytes()
    start = int.from_bytes(content[-8:-4], "little") + 8
    if damage == "other":
        pq.write_table(pa.table({"face_id": names}), table)
    else:
        zeros = content[:4] + bytes(len(content) - start - 4) + content[-start:]
        table.write_bytes(content[:-20] if damage == "cut" else zeros)
    err = io.StringIO()
    make_report(output, err=err)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "2 faces" in text_of(page) and "Perceptual hashes that are near" not in text_of(page)
    told = f"warning: the report lacks the duplicates, as the tables in {tmp_path}/out/duplicates cannot be read ("
    assert err.getvalue().startswith(told) and err.getvalue().count("\n") == 1
    assert err.getvalue().endswith(f"; facemill duplicates {output.uri} makes them anew\n")


def test_groups_of_duplicates_that_are_not_shown_are_told_and_names_escaped(tmp_path: Path) -> None:
    images = [
        image_row(f"photos/<b>{copy}/<i>{number}.jpg", label="<b>", sha256=f"{number}", status="no_face")
        for number in range(7)
        for copy in range(2)
    ]
    output = write_output(tmp_path / "out", images)
    find_duplicates(open_output(output), DuplicatesOptions(near_distance=32))
    make_report(output)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    section = text_of(page).partition("Equal files")[2]
    shown = "6 of the groups are shown, those across labels first, then the largest; all are in duplicates"
    assert shown in section
    assert section.count("stays, <b>, <i>") == 6
    assert "<b>" not in page and "<i>" not in page
