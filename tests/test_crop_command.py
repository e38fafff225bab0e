"""`facemill crop`: crops of the faces of an earlier output, cut anew."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from pictures import archive, portrait, read_crops, read_table, write_loose, write_parquet, write_tar, write_zip
from PIL import Image
from web import web_server

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.cli import main
from facemill.pipeline.config import load_config
from facemill.pipeline.crop import crop_config
from facemill.pipeline.filter import filter_output
from facemill.pipeline.graph import process_units
from facemill.pipeline.job import Job
from facemill.pipeline.outputs import open_output
from facemill.pipeline.plan import read_plan
from facemill.pipeline.run import RunRequest, RunResult, run
from facemill.transforms.ops.layout import faces_name, images_name, marker_name
from facemill.transforms.ops.reading import ReadOptions
from facemill.transforms.ops.recalling import recall_unit
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

NUM_PORTRAITS = 8


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs in all kinds of shards, and an output of which every second face is kept."""
    folder = tmp_path_factory.mktemp("found")
    files = archive(NUM_PORTRAITS)
    write_loose(folder / "photos", files)
    write_tar(folder / "photos" / "a.tar", files)
    write_tar(folder / "photos" / "b.tar.gz", files, "w:gz")
    write_zip(folder / "photos" / "c.zip", files)
    write_parquet(folder / "photos" / "d.parquet", files)
    config = load_config(None, ["run.unit_files=4", "judge.max_pitch_deg=17.1"])
    made = run(RunRequest(inputs=[str(folder / "photos")], output=Folder(str(folder / "out")), config=config))
    assert 5 <= made.account.num_kept <= 5 * NUM_PORTRAITS - 5, "some faces are to be kept, and some not"
    return folder


def crop(tables: Path, output: Path, *settings: str, templates: tuple[str, ...] = (), **request: Any) -> RunResult:
    folder = Folder(str(tables))
    config = crop_config(folder, templates=templates, settings=settings)
    return run(RunRequest(inputs=(), tables=folder, output=Folder(str(output)), config=config, **request))


def test_the_same_template_gives_the_same_tables_and_crops(found: Path, tmp_path: Path) -> None:
    result = crop(found / "out", tmp_path / "again", num_workers=2)
    assert result.is_complete
    assert result.account.num_images == 5 * (NUM_PORTRAITS + 3)
    for table in ("images", "faces"):
        assert read_table(tmp_path / "again", table) == read_table(found / "out", table)
    crops = read_crops(tmp_path / "again")
    assert len(crops) == result.account.num_kept > 0
    assert crops == read_crops(found / "out")


def test_only_files_with_a_kept_face_are_opened(found: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    loose = write_loose(copy, archive(NUM_PORTRAITS))
    run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=load_config(None, [])))
    rows = read_table(tmp_path / "out", "images")
    unneeded = [loose.parent / row["source"] for row in rows if not row["num_kept"]]
    assert len(unneeded) == 3
    for path in unneeded:
        path.unlink()
    assert crop(tmp_path / "out", tmp_path / "again").is_complete
    assert read_table(tmp_path / "again", "images") == rows


def test_a_file_that_is_another_now_fails_and_says_so(tmp_path: Path) -> None:
    loose = write_loose(tmp_path / "photos", archive(3))
    run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=load_config(None, [])))
    (loose / "person_0/0000.jpg").write_bytes((loose / "person_1/0001.jpg").read_bytes())
    (loose / "person_2/0002.jpg").unlink()
    result = crop(tmp_path / "out", tmp_path / "again")
    rows = {row["image_id"]: row for row in read_table(tmp_path / "again", "images")}
    changed, gone = rows["photos/person_0/0000.jpg"], rows["photos/person_2/0002.jpg"]
    assert (changed["status"], changed["reason"], gone["reason"]) == ("failed", "read_error", "read_error")
    assert "its SHA-256 differs" in changed["message"]
    assert gone["message"] == "No such file or directory"
    assert rows["photos/person_1/0001.jpg"]["status"] == "ok"
    assert result.account.num_kept == result.account.num_crops == 1


def test_what_has_come_back_is_done_when_asked(tmp_path: Path) -> None:
    """Not so the unit of an archive, whose failure is in the tables already."""
    loose = write_loose(tmp_path / "photos", archive(3))
    (loose / "empty.tar").write_bytes(b"")
    run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=load_config(None, [])))
    (loose / "person_2/0002.jpg").rename(tmp_path / "away.jpg")
    assert crop(tmp_path / "out", tmp_path / "again").account.failure_reasons["read_error"] == 1
    (tmp_path / "away.jpg").rename(loose / "person_2/0002.jpg")
    markers = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "_units").iterdir()}
    assert len(markers) == 2
    command = [sys.executable, "-m", "facemill.pipeline.cli", "crop", "out", "--output", "again", "--workers", "1"]
    for arguments, is_back in (([], False), (["--retry-failed"], True)):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (read_crops(tmp_path / "again") == read_crops(tmp_path / "out")) == is_back
    assert sum(path.stat().st_mtime_ns != time for path, time in markers.items()) == 1


def test_a_shard_whose_members_have_moved_fails_and_says_so(tmp_path: Path) -> None:
    files = archive(3)
    shard = write_tar(tmp_path / "photos" / "a.tar", files)
    run(RunRequest(inputs=[str(shard)], output=Folder(str(tmp_path / "out")), config=load_config(None, [])))
    write_tar(shard, {"added/first.jpg": b"x", **files})
    result = crop(tmp_path / "out", tmp_path / "again")
    failed = [row for row in read_table(tmp_path / "again", "images") if "has changed" in (row["message"] or "")]
    assert len(failed) == 3
    assert result.account.num_crops == 0


def drop(table: Path, first: int) -> None:
    pq.write_table(pq.read_table(table).slice(first), table)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder, unit: drop(folder / images_name(unit), 6), "are not those that images/.* counts"),
        (lambda folder, unit: drop(folder / faces_name(unit), 1), "are not those that images/.* counts"),
        (lambda folder, unit: (folder / faces_name(unit)).write_bytes(b""), r"faces/unit-.*\.parquet is damaged"),
    ],
)
def test_damaged_tables_are_told(damage: Any, message: str, found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")
    tables = Folder(str(tmp_path / "out"))
    units = [unit for unit in read_plan(tables).units(read_plan(tables).names) if unit.sources[0].endswith(".tar")]
    damage(tmp_path / "out", units[0].name)
    with pytest.raises(OutputError, match=message):
        list(recall_unit(units[0], tables, {"photos": Folder(str(found / "photos"))}, ReadOptions()))


def test_tables_that_name_other_videos_are_told(found: Path) -> None:
    tables, roots = Folder(str(found / "out")), {"photos": Folder(str(found / "photos"))}
    video = Unit(read_plan(tables).names[0], "videos", ("photos/a.mp4",), (1,), 1)
    with pytest.raises(OutputError, match="which is none of its videos"):
        list(recall_unit(video, tables, roots, ReadOptions()))


def test_it_goes_on_where_it_was_interrupted(found: Path, tmp_path: Path) -> None:
    crop(found / "out", tmp_path / "again")
    before = read_crops(tmp_path / "again")
    markers = sorted((tmp_path / "again" / "_units").iterdir())
    untouched = markers[0].stat().st_mtime_ns
    markers[-1].unlink()
    err = io.StringIO()
    folder = Folder(str(found / "out"))
    request = RunRequest(inputs=(), tables=folder, output=Folder(str(tmp_path / "again")), config=crop_config(folder))
    assert run(request, err=err).is_complete
    assert f"{len(markers) - 1} committed, 1 to do" in err.getvalue()
    assert markers[0].stat().st_mtime_ns == untouched
    assert read_crops(tmp_path / "again") == before


def test_units_that_are_committed_later_are_done_by_the_same_command(tmp_path: Path) -> None:
    loose = write_loose(tmp_path / "photos", archive(6))
    config = load_config(None, ["run.unit_files=3"])
    request = RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=config)
    run(request)
    marker = tmp_path / "out" / marker_name("unit-000000")
    content = marker.read_bytes()
    marker.unlink()
    partly = crop(tmp_path / "out", tmp_path / "again")
    marker.write_bytes(content)
    whole = crop(tmp_path / "out", tmp_path / "again")
    assert 0 < partly.account.num_units < whole.account.num_units
    assert read_crops(tmp_path / "again") == read_crops(tmp_path / "out")


def test_units_that_the_tables_did_again_are_done_again(tmp_path: Path) -> None:
    photos = write_loose(tmp_path / "photos", archive(5))
    lost = photos / "person_1" / "0001.jpg"
    content = lost.read_bytes()
    lost.write_bytes(b"")
    config = load_config(None, ["run.unit_files=3"])
    request = RunRequest(inputs=[str(photos)], output=Folder(str(tmp_path / "out")), config=config)
    run(request)
    filtered = Folder(str(tmp_path / "out")), Folder(str(tmp_path / "new"))
    filter_output(*filtered, out=io.StringIO())
    before = crop(tmp_path / "new", tmp_path / "again").account
    untouched = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "_units").iterdir()}
    lost.write_bytes(content)
    run(replace(request, retry_failed=True))
    err = io.StringIO()
    filter_output(*filtered, out=io.StringIO(), err=err)
    assert f"1 units were done again in {tmp_path / 'out'}, and are done again here" in err.getvalue()
    folder, new = filtered[1], Folder(str(tmp_path / "again"))
    err = io.StringIO()
    after = run(RunRequest(inputs=(), tables=folder, output=new, config=crop_config(folder)), err=err).account
    assert f"1 units were done again in {tmp_path / 'new'}, and are done again here" in err.getvalue()
    assert after.num_kept == before.num_kept + 1
    assert read_crops(tmp_path / "again") == read_crops(tmp_path / "out")
    assert read_table(tmp_path / "again", "images") == read_table(tmp_path / "out", "images")
    assert sum(path.stat().st_mtime_ns != time for path, time in untouched.items()) == 1
    err = io.StringIO()
    run(RunRequest(inputs=(), tables=folder, output=new, config=crop_config(folder)), err=err)
    assert "0 to do" in err.getvalue() and "done again" not in err.getvalue()


def test_only_urls_with_a_kept_face_are_fetched(tmp_path: Path) -> None:
    files = archive(3)
    photos = write_loose(tmp_path / "photos", files)
    with web_server(photos) as base:
        lines = [f"{base}/{name}\n" for name in sorted(files)]
        lists = write_loose(tmp_path / "lists", {"a.urls": "".join(lines).encode()})
        run(RunRequest(inputs=[str(lists)], output=Folder(str(tmp_path / "out")), config=load_config()))
        rows = read_table(tmp_path / "out", "images")
        unneeded = [row for row in rows if not row["num_kept"]]
        assert len(unneeded) == len(rows) - 3 > 0
        for row in unneeded:
            (photos / row["image_id"].split(f"{base}/")[1]).unlink()
        (photos / "person_1" / "0001.jpg").unlink()
        result = crop(tmp_path / "out", tmp_path / "again")
    assert result.account.statuses["ok"] == 2
    again = read_table(tmp_path / "again", "images")
    changed = [(before, now) for before, now in zip(rows, again, strict=True) if before != now]
    assert [now["message"] for _, now in changed] == ["HTTP status 404 Not Found"]
    assert len(read_crops(tmp_path / "again")) == 2


def process_videos(job: Job, skip: tuple[int, ...]) -> None:
    """The graph on a unit of two videos, of which the frames in `skip` killed the worker before."""
    unit = Unit("unit-000000", "videos", ("in/1.avi", "in/2.avi"), (1, 1), 2)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        process_units(pipeline | beam.Create([unit]), job=job, quarantined={unit.name: skip})


def test_videos_that_were_left_in_their_midst(tmp_path: Path) -> None:
    frames = [np.asarray(Image.open(io.BytesIO(portrait(number))).convert("RGB")) for number in range(3)]
    for name in ("1.avi", "2.avi"):
        path, size_wh = str(tmp_path / name), frames[0].shape[1::-1]
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 1, size_wh)
        for pixels in frames:
            writer.write(pixels[..., ::-1])
        writer.release()
    out, again, killed = (Folder(str(tmp_path / name)) for name in ("out", "again", "killed"))
    job = Job(load_config(None, ["detect.accelerator=cpu"]), {"in": Folder(str(tmp_path))}, out)
    process_videos(job, skip=(2,))
    rows = read_table(tmp_path / "out", "images")
    assert [row["num_kept"] for row in rows] == [0, 1, 1, 1, 1, 1], "the deadly frame has the name of its video"
    process_videos(replace(job, output=again, tables=out), skip=())
    assert read_table(tmp_path / "again", "images") == rows
    assert read_crops(tmp_path / "again") == read_crops(tmp_path / "out")
    process_videos(replace(job, output=killed, tables=out), skip=(0,))
    left = {row["image_id"]: row for row in read_table(tmp_path / "killed", "images")}
    whole = [row for row in rows if "2.avi" in row["image_id"]]
    assert [left[row["image_id"]] for row in whole] == whole
    assert [row["message"] for row in left.values() if row not in whole] == [
        rows[0]["message"],
        "the worker process died on this image, again and again",
        "the worker process died on a frame before this one, again and again",
    ]


def test_other_crops_of_the_same_faces(found: Path, tmp_path: Path) -> None:
    crop(found / "out", tmp_path / "png", "write.image_format=png", "write.crops=files", "align.border=white")
    pictures = sorted((tmp_path / "png" / "files").rglob("*.png"))
    kept = [row for row in read_table(tmp_path / "png", "faces") if row["kept"]]
    assert len(pictures) == len(kept) > 0
    assert {row["crop"] for row in kept} == {path.name for path in pictures}
    lossless = {path.stem: np.asarray(Image.open(path)) for path in pictures}
    for name, content in read_crops(found / "out").items():
        lossy = np.asarray(Image.open(io.BytesIO(content)), np.int16)
        assert np.abs(lossy - lossless[name.removesuffix(".jpg")]).mean() < 4


def test_several_templates_from_one_decoded_image(found: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("mine: {size: [60, 50], points: [[20, 20], [40, 20], [30, 28], [22, 36], [38, 36]]}\n")
    result = crop(found / "out", tmp_path / "many", templates=("arcface112", "ffhq256", str(own)))
    assert result.account.num_crops == result.account.num_kept > 0
    several = open_output(Folder(str(tmp_path / "many")))
    cut = {
        name: dict(crop for unit in several.units for crop in several.crops(unit, name)) for name in several.templates
    }
    assert cut.keys() == {"arcface112", "ffhq256", "mine"}
    assert cut["arcface112"] == read_crops(found / "out")
    assert all(crops.keys() == cut["arcface112"].keys() for crops in cut.values())
    sizes = {name: {Image.open(io.BytesIO(content)).size for content in crops.values()} for name, crops in cut.items()}
    assert sizes == {"arcface112": {(112, 112)}, "ffhq256": {(256, 256)}, "mine": {(60, 50)}}
    bare = ["crop", str(found / "out"), "--no-report", "--output", str(tmp_path / "many")]
    assert main(bare) == 0, "it goes on as it was begun"
    assert main([*bare, "--template", "ffhq256"]) == 2
    crop(tmp_path / "many", tmp_path / "third", templates=("mine",))
    assert read_crops(tmp_path / "third") == cut["mine"]


def test_tables_without_crops_get_some(tmp_path: Path) -> None:
    loose = write_loose(tmp_path / "photos", archive(2))
    config = load_config(None, ["write.crops=none"])
    run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=config))
    assert not (tmp_path / "out" / "crops").exists()
    assert crop(tmp_path / "out", tmp_path / "again").account.num_crops == 2


def test_large_photographs_are_reduced_as_the_policy_says(tmp_path: Path) -> None:
    from pictures import astronaut, jpeg

    large = np.asarray(Image.fromarray(astronaut()).resize((2048, 2048), Image.Resampling.BICUBIC))
    photos = write_loose(tmp_path / "photos", {"a.jpg": jpeg(large)})
    config = load_config(None, ["detect.min_face_size_px=200"])
    run(RunRequest(inputs=[str(photos)], output=Folder(str(tmp_path / "out")), config=config))
    crop(tmp_path / "out", tmp_path / "full", "write.image_format=png")
    crop(tmp_path / "out", tmp_path / "reduced", "write.image_format=png", "decode.policy=reduced")
    full, reduced = read_crops(tmp_path / "full"), read_crops(tmp_path / "reduced")
    assert full.keys() == reduced.keys()
    assert len(full) == 1
    pixels = [np.asarray(Image.open(io.BytesIO(content)), np.int16) for c in (full, reduced) for content in c.values()]
    difference = np.abs(pixels[0] - pixels[1])
    assert 0 < difference.mean() < 1.5  # other pixels, of the same face in the same place


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["judge.max_yaw_deg=5"], r"takes the faces as .* has them, and judge\.max_yaw_deg is 5\.0 now"),
        (["detect.min_face_size_px=40"], r"detect\.min_face_size_px is 40\.0 now"),
        (["align.nose=1"], r"unknown key align\.nose"),
        (["write.jpeg_quality=0"], r"jpeg_quality must lie in \[1, 100\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(found: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        crop_config(Folder(str(found / "out")), settings=settings)


def test_the_folder_of_the_tables_is_no_output(found: Path) -> None:
    with pytest.raises(ConfigError, match="holds the tables that are to be read"):
        crop(found / "out", found / "photos" / ".." / "out")


def test_crops_of_other_tables_do_not_go_into_the_same_folder(found: Path, tmp_path: Path) -> None:
    loose = write_loose(tmp_path / "photos", archive(2))
    config = load_config(None, ["run.unit_files=4", "judge.max_pitch_deg=17.1"])
    run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=config))
    crop(tmp_path / "out", tmp_path / "again")
    with pytest.raises(ConfigError, match=r"was made by facemill crop .*, not by facemill crop"):
        crop(found / "out", tmp_path / "again")
    with pytest.raises(ConfigError, match=r"was made by facemill crop .*, not by facemill run"):
        run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "again")), config=config))


def test_an_archive_that_was_moved(tmp_path: Path) -> None:
    loose = write_loose(tmp_path / "photos", archive(2))
    run(RunRequest(inputs=[str(loose)], output=Folder(str(tmp_path / "out")), config=load_config()))
    loose.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"the input photos \(.*\) is gone"):
        crop(tmp_path / "out", tmp_path / "again")
    with pytest.raises(ConfigError, match="--moved names the input 'picures', and there is photos"):
        crop(tmp_path / "out", tmp_path / "again", moved={"picures": str(tmp_path / "elsewhere")})
    assert crop(tmp_path / "out", tmp_path / "again", moved={"photos": str(tmp_path / "elsewhere")}).is_complete
    (tmp_path / "again" / marker_name("unit-000000")).unlink()
    assert crop(tmp_path / "out", tmp_path / "again").is_complete
    assert read_crops(tmp_path / "again") == read_crops(tmp_path / "out")
    (tmp_path / "elsewhere").rename(tmp_path / "third")
    moved = {"photos": str(tmp_path / "third")}
    run(RunRequest(inputs=(), output=Folder(str(tmp_path / "out")), config=load_config(), moved=moved))
    (tmp_path / "again" / marker_name("unit-000000")).unlink()
    assert crop(tmp_path / "out", tmp_path / "again").is_complete, "it was told to the tables"
    assert open_output(Folder(str(tmp_path / "again"))).manifest.inputs == {"photos": f"file://{tmp_path / 'third'}"}


def test_a_job_that_is_left_to_itself_is_gone_on_with_by_the_same_command(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facemill.pipeline.run.run_remote", lambda *_, **__: None)  # as there is no cluster here
    out = io.StringIO()
    tables, output = Folder(str(found / "out")), Folder(str(tmp_path / "again"))
    request = RunRequest(
        inputs=(),
        tables=tables,
        output=output,
        config=crop_config(tables, settings=["detect.accelerator=cpu"]),
        runner="PortableRunner",
        beam_arguments=["--job_endpoint=localhost:1"],
        detach=True,
    )
    assert run(request, out=out).is_detached
    assert f"facemill crop {found / 'out'} --output {tmp_path / 'again'} counts them" in out.getvalue()


def test_tables_that_a_cluster_cannot_reach_are_refused_before_anything_is_written(found: Path) -> None:
    tables, output = Folder(str(found / "out")), Folder("memory://unreachable-tables")
    options = [
        "--project=archive",
        "--region=europe-west4",
        "--temp_location=gs://bucket/temp",
        "--sdk_container_image=x",
    ]
    config = crop_config(tables, settings=["detect.accelerator=cpu"])
    request = RunRequest((), output, config, tables=tables, runner="DataflowRunner", beam_arguments=options)
    with pytest.raises(ConfigError, match=f"Dataflow's machines cannot reach .*{found.name}/out"):
        run(request)
    assert not output.exists("manifest.json")


def test_credentials_are_not_written_down(found: Path, tmp_path: Path) -> None:
    signed, private = "https://h/photos?X-Amz-Signature=s3cret", "ftp://me:s3cret@h/photos"
    for uri in (signed, private):
        refused = [
            lambda uri=uri: crop(found / "out", tmp_path / "again", moved={"photos": uri}),
            lambda uri=uri: crop_config(Folder(uri)),
            lambda uri=uri: filter_output(Folder(uri), Folder(str(tmp_path / "again"))),
        ]
        for ask in refused:
            with pytest.raises(ConfigError, match="the manifest would keep") as caught:
                ask()
            assert "s3cret" not in str(caught.value)
    assert not (tmp_path / "again").exists()


def test_an_output_without_a_unit_is_refused(tmp_path: Path, found: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_bytes((found / "out" / "manifest.json").read_bytes())
    with pytest.raises(ConfigError, match="holds no committed unit yet"):
        crop(tmp_path / "out", tmp_path / "again")


def test_the_command(found: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "crop", str(found / "out")]
    arguments = ["--output", "again", "--template", "arcface112", "--set", "write.jpeg_quality=80", "--workers", "1"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "crops: crops/*.tar" in done.stdout
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest["config"]["write"]["jpeg_quality"] == 80
    assert manifest["tables"] == os.path.realpath(found / "out")
    refused = subprocess.run([*command[:-1], "nowhere", "--output", "x"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (
        2,
        "facemill: nowhere is no output folder of facemill: it holds no manifest.json\n",
    )
