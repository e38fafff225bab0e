"""`facemill filter`: other verdicts on the faces of an earlier output, by its tables alone."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import load
from pictures import archive, astronaut, jpeg, read_crops, read_table, write_loose, write_tar
from PIL import Image

from facemill.models.errors import ConfigError, DamagedOutputError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.crop import crop_config
from facemill.pipeline.export import progress
from facemill.pipeline.export.job import ExportRequest, export
from facemill.pipeline.export.options import ExportOptions
from facemill.pipeline.filter import FilterResult, filter_output
from facemill.pipeline.outputs import open_output
from facemill.pipeline.run import RunRequest, RunResult, run
from facemill.transforms.ops.layout import faces_name, images_name, marker_name
from facemill.transforms.ops.storage import Folder

MEDIUM = "judge.max_pitch_deg=17.1"
STRICTER = (MEDIUM, "judge.min_sharpness=1.2", "judge.keep=center")


def crowd(shift: int) -> bytes:
    """A face in three sizes, the smallest as blurred as it is enlarged."""
    picture = Image.new("RGB", (1000, 460), (90, 110, 130))
    face = Image.fromarray(astronaut()[:300, 80:380])
    for x, side in ((0, 420), (430, 250), (700, 290)):
        small = face.resize((60, 60)) if x == 700 else face
        picture.paste(small.resize((side, side)), (x, 10 + shift))
    return jpeg(np.asarray(picture))


def process(photos: Path, output: Path, *settings: str) -> RunResult:
    config = load_config(None, ["run.unit_files=4", *settings])
    return run(RunRequest(inputs=[str(photos)], output=Folder(str(output)), config=config))


def refilter(tables: Path, output: Path, *settings: str, source: str | None = None) -> FilterResult:
    folders = Folder(str(tables)), Folder(str(output))
    return filter_output(*folders, source=source, settings=settings, num_workers=2, out=io.StringIO())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, and an output of which some faces are kept."""
    folder = tmp_path_factory.mktemp("found")
    files = archive(5) | {f"crowd/{number}.jpg": crowd(number) for number in range(3)}
    write_loose(folder / "photos", files)
    write_tar(folder / "photos" / "shard.tar", files)
    result = process(folder / "photos", folder / "out", MEDIUM)
    assert 4 < result.account.num_kept < result.account.num_faces - 4
    return folder


def rows_without_crops(output: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "crop"} for row in read_table(output, "faces")]


def test_the_same_limits_give_the_same_tables_to_the_bit(found: Path, tmp_path: Path) -> None:
    result = refilter(found / "out", tmp_path / "new")
    tables = sorted(path.relative_to(found / "out") for path in (found / "out").glob("*/*.parquet"))
    assert len(tables) >= 2 * 4
    for table in tables:
        assert (tmp_path / "new" / table).read_bytes() == (found / "out" / table).read_bytes(), table
    assert result.before == result.after
    assert open_output(Folder(str(tmp_path / "new"))).config == open_output(Folder(str(found / "out"))).config


@pytest.mark.parametrize(
    "settings",
    [
        STRICTER,
        ("judge.max_pitch_deg=180", "judge.max_mouth_occlusion=0.9"),
        (MEDIUM, "judge.keep=largest", "judge.min_luminance_mean=0.2", "judge.max_crop_out=0.01"),
    ],
    ids=["stricter", "looser", "both"],
)
def test_other_limits_give_what_a_new_run_gives(settings: tuple[str, ...], found: Path, tmp_path: Path) -> None:
    before = open_output(Folder(str(found / "out"))).config.judge.max_pitch_deg
    result = refilter(found / "out", tmp_path / "new", *settings)
    fresh = process(found / "photos", tmp_path / "fresh", *settings)
    assert before == pytest.approx(17.1)
    assert read_table(tmp_path / "new", "images") == read_table(tmp_path / "fresh", "images")
    assert rows_without_crops(tmp_path / "new") == rows_without_crops(tmp_path / "fresh")
    assert rows_without_crops(tmp_path / "new") != rows_without_crops(found / "out")
    for name in ("num_images", "num_faces", "num_kept", "statuses", "failure_reasons", "rejection_reasons"):
        assert getattr(result.after, name) == getattr(fresh.account, name), name
    for table in sorted(path.relative_to(tmp_path / "fresh") for path in (tmp_path / "fresh").glob("*/*.parquet")):
        assert pq.read_schema(tmp_path / "new" / table).metadata == pq.read_schema(tmp_path / "fresh" / table).metadata


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_no_image_is_read_and_the_earlier_output_stays_as_it_is(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")  # whose photographs are out of reach: their folder is not here
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["inputs"] = {"photos": str(tmp_path / "gone")}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    before = contents(tmp_path / "out")
    refilter(tmp_path / "out", tmp_path / "new", *STRICTER)
    assert contents(tmp_path / "out") == before
    assert open_output(Folder(str(tmp_path / "new"))).manifest.inputs == manifest["inputs"]


def test_crops_of_fewer_faces_are_those_of_the_earlier_output(found: Path, tmp_path: Path) -> None:
    result = refilter(found / "out", tmp_path / "new", *STRICTER)
    assert 0 < result.after.num_kept < result.before.num_kept
    assert result.num_without_crop == 0
    output = open_output(Folder(str(tmp_path / "new")))
    assert output.manifest.crops_from == output.crops_folder.uri == str((found / "out").absolute())
    crops = dict(crop for unit in output.units for crop in output.crops(unit))
    assert crops.keys() == {row["crop"] for row in read_table(tmp_path / "new", "faces") if row["kept"]}
    assert crops.items() < read_crops(found / "out").items()


def test_a_filtered_output_is_exported_and_cropped(found: Path, tmp_path: Path) -> None:
    result = refilter(found / "out", tmp_path / "new", *STRICTER)
    crops, kept = read_crops(found / "out"), [row for row in read_table(tmp_path / "new", "faces") if row["kept"]]
    tables = Folder(str(tmp_path / "new"))
    options = ExportOptions(format="csv", unlabelled="keep")
    export(ExportRequest(source=tables, destination=Folder(str(tmp_path / "set")), options=options), out=io.StringIO())
    exported = {face.face_id: face.content for face in load(tmp_path / "set", "csv", "train")}
    assert len(exported) == result.after.num_kept > 0
    assert exported == {row["face_id"]: crops[row["crop"]] for row in kept}
    made = run(RunRequest(inputs=(), tables=tables, output=Folder(str(tmp_path / "crops")), config=crop_config(tables)))
    assert made.is_complete
    assert read_crops(tmp_path / "crops") == {row["crop"]: crops[row["crop"]] for row in kept}


def test_faces_without_a_crop_are_no_export(found: Path, tmp_path: Path) -> None:
    refilter(found / "out", tmp_path / "new", "judge.max_pitch_deg=180")
    request = ExportRequest(Folder(str(tmp_path / "new")), Folder(str(tmp_path / "set")), ExportOptions(format="csv"))
    with pytest.raises(ConfigError, match=r"kept faces without a crop; facemill crop .* makes them"):
        export(request)
    assert not (tmp_path / "set").exists()


def test_crops_of_more_faces_have_to_be_made(found: Path, tmp_path: Path) -> None:
    result = refilter(found / "out", tmp_path / "new", "judge.max_pitch_deg=180")
    assert result.num_without_crop == result.after.num_kept - result.before.num_kept > 0
    tables = Folder(str(tmp_path / "new"))
    output = open_output(tables)
    assert output.manifest.crops_from == ""
    with pytest.raises(ConfigError, match=r"kept faces without a crop; facemill crop .* makes them"):
        next(output.crops(output.units[0]))
    made = run(RunRequest(inputs=(), tables=tables, output=Folder(str(tmp_path / "crops")), config=crop_config(tables)))
    process(found / "photos", tmp_path / "fresh", "judge.max_pitch_deg=180")
    assert made.is_complete
    assert read_crops(tmp_path / "crops") == read_crops(tmp_path / "fresh")
    assert read_table(tmp_path / "crops", "faces") == read_table(tmp_path / "fresh", "faces")


def test_a_filter_of_a_filter(found: Path, tmp_path: Path) -> None:
    refilter(found / "out", tmp_path / "looser", "judge.max_pitch_deg=180")
    result = refilter(tmp_path / "looser", tmp_path / "back", MEDIUM)
    assert read_table(tmp_path / "back", "faces") == read_table(found / "out", "faces")
    assert result.num_without_crop == 0
    assert open_output(Folder(str(tmp_path / "back"))).crops_folder.uri == str((found / "out").absolute())
    refilter(found / "out", tmp_path / "none", "judge.min_score=1")
    again = refilter(tmp_path / "none", tmp_path / "again", "judge.min_score=0")
    assert again.after.num_kept == again.num_without_crop > 0, "a table forgets the crops of faces that it rejects"


def test_an_output_between_two_filters_may_be_gone_but_not_that_with_the_crops(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")
    refilter(tmp_path / "out", tmp_path / "first", MEDIUM)
    refilter(tmp_path / "first", tmp_path / "second", MEDIUM)
    shutil.rmtree(tmp_path / "first")
    refilter(tmp_path / "second", tmp_path / "third", *STRICTER)
    third = open_output(Folder(str(tmp_path / "third")))
    assert third.manifest.crops_from == third.crops_folder.uri == str((tmp_path / "out").absolute())
    (tmp_path / "moved").mkdir()
    for name in ("out", "third"):
        shutil.copytree(tmp_path / name, tmp_path / "moved" / name)
    shutil.rmtree(tmp_path / "out")
    moved = open_output(Folder(str(tmp_path / "moved" / "third")))
    assert sum(1 for unit in moved.units for _ in moved.crops(unit)) > 0
    with pytest.raises(ConfigError, match=r"the crops of \S+ were in \S+/out, which is gone; .* facemill crop"):
        open_output(Folder(str(tmp_path / "third"))).check_crops()
    out, err = io.StringIO(), io.StringIO()
    result = filter_output(Folder(str(tmp_path / "third")), Folder(str(tmp_path / "fourth")), out=out, err=err)
    assert result.after.num_kept == result.before.num_kept > 0
    assert err.getvalue().startswith(f"warning: the crops are out of reach: {tmp_path / 'out'} is no output folder")
    assert "crops: those of the kept faces were not found; facemill crop" in out.getvalue()
    assert open_output(Folder(str(tmp_path / "fourth"))).manifest.crops_from == ""


def test_crops_of_another_run_are_not_taken(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")
    refilter(tmp_path / "out", tmp_path / "new", MEDIUM)
    shutil.rmtree(tmp_path / "out")
    process(found / "photos", tmp_path / "out", "write.jpeg_quality=50")
    output = open_output(Folder(str(tmp_path / "new")))
    with pytest.raises(OutputError, match=r"unit-\d+ in \S+/out is another than the one whose faces \S+/new judged"):
        list(output.crops(output.units[0]))


def test_tables_without_their_plan_are_told(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out", ignore=shutil.ignore_patterns("plan"))
    with pytest.raises(DamagedOutputError, match=r"plan is incomplete: it lacks unit-000000"):
        refilter(tmp_path / "out", tmp_path / "new")


def test_it_goes_on_where_it_was_interrupted(found: Path, tmp_path: Path) -> None:
    refilter(found / "out", tmp_path / "new", *STRICTER)
    whole = contents(tmp_path / "new")
    first, second, *others = open_output(Folder(str(tmp_path / "new"))).units
    for unit in (first, second):
        (tmp_path / "new" / marker_name(unit)).unlink()
    (tmp_path / "new" / faces_name(first)).unlink()
    (tmp_path / "new" / "faces" / ".left.parquet.1-0.tmp").touch()
    untouched = {unit: (tmp_path / "new" / images_name(unit)).stat().st_mtime_ns for unit in others}
    refilter(found / "out", tmp_path / "new", *STRICTER)
    assert untouched == {unit: (tmp_path / "new" / images_name(unit)).stat().st_mtime_ns for unit in others}
    now = contents(tmp_path / "new")
    assert now.keys() == whole.keys()
    assert all(now[name] == whole[name] for name in whole if not name.startswith("_units/"))


def test_units_that_are_committed_later_are_done_by_the_same_command(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")
    late, *_ = open_output(Folder(str(tmp_path / "out"))).units
    marker = (tmp_path / "out" / marker_name(late)).read_bytes()
    (tmp_path / "out" / marker_name(late)).unlink()
    err = io.StringIO()
    folders = Folder(str(tmp_path / "out")), Folder(str(tmp_path / "new"))
    first = filter_output(*folders, settings=STRICTER, out=io.StringIO(), err=err)
    assert "warning: 1 of" in err.getvalue()
    (tmp_path / "out" / marker_name(late)).write_bytes(marker)
    assert not (tmp_path / "new" / "report.html").exists()
    (tmp_path / "new" / "report.html").write_text("of fewer units")
    second = filter_output(*folders, settings=STRICTER, out=io.StringIO())
    assert second.after.num_units == first.after.num_units + 1
    assert f"{second.after.num_faces:,}" in (tmp_path / "new" / "report.html").read_text()
    refilter(found / "out", tmp_path / "whole", *STRICTER)
    assert read_table(tmp_path / "new", "faces") == read_table(tmp_path / "whole", "faces")


def test_a_face_must_have_a_crop_in_each_template(tmp_path: Path) -> None:
    """As in a new run: a box without an area has none in `square256`, which goes by boxes."""
    points = (60.0, 60.0, 90.0, 60.0, 75.0, 78.0, 64.0, 95.0, 86.0, 95.0)
    corners = {"x1": [50.0, 60.0, 200.0], "y1": [40.0] * 3, "x2": [100.0, 60.0, 300.0], "y2": [110.0] * 3}
    ids = {"image_id": ["photos/person_0/0000.jpg"] * 3, "score": [0.9] * 3, "landmarks": [points] * 3}
    pq.write_table(pa.table(corners | ids), tmp_path / "known.parquet")
    photos = write_loose(tmp_path / "photos", archive(1))
    settings = ("align.template=[arcface112, square256]", f"landmarks.known_faces={tmp_path / 'known.parquet'}")
    process(photos, tmp_path / "out", *settings, "judge.min_score=0.95")
    process(photos, tmp_path / "fresh", *settings)
    assert [row["reason"] for row in read_table(tmp_path / "fresh", "faces")] == [None, "no_crop", "no_crop"]
    refilter(tmp_path / "out", tmp_path / "new", "judge.min_score=0")
    judged, expected = (rows_without_crops(tmp_path / name) for name in ("new", "fresh"))
    np.testing.assert_equal(judged, expected)  # NaN, which `crop_out` is of such a box, is equal to NaN
    result = refilter(tmp_path / "fresh", tmp_path / "again")
    assert (result.num_without_crop, result.after.rejection_reasons) == (0, {"no_crop": 2})
    assert result.before == result.after
    output = open_output(Folder(str(tmp_path / "again")))
    assert len(list(output.crops(output.units[0], "square256"))) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["detect.min_face_size_px=80"], "detect.min_face_size_px is 80.0 now and was 20.0 there; it changes judge"),
        (["align.border=white"], "align.border is 'white' now and was 'black' there; it changes judge"),
        (["judge.max_yaw_deg=200"], r"judge.max_yaw_deg must lie in \[0, 180\], got 200"),
        (["judge.min_sharpnes=1"], "unknown key judge.min_sharpnes; did you mean min_sharpness?"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: list[str], message: str, found: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        refilter(found / "out", tmp_path / "new", *settings)
    assert not (tmp_path / "new").exists()


def test_a_preset_with_other_settings_is_refused_with_its_limits(found: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        refilter(found / "out", tmp_path / "new", source="recognition")
    settings = re.findall(r"--set (\S+)", str(refused.value))
    assert settings == [
        "judge.max_roll_deg=45.0",
        "judge.min_interocular_px=20.0",
        "judge.keep=largest",
        "judge.keep_among=found",
    ]
    refilter(found / "out", tmp_path / "new", *settings)


def test_a_file_of_limits_is_laid_over_those_of_the_tables(found: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text("judge: {min_sharpness: 1.2, keep: center}\n")
    refilter(found / "out", tmp_path / "new", source=str(tmp_path / "limits.yaml"))
    refilter(found / "out", tmp_path / "expected", *STRICTER)
    assert read_table(tmp_path / "new", "faces") == read_table(tmp_path / "expected", "faces")


def test_folders_that_cannot_be_are_refused(found: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no output folder of facemill"):
        refilter(found / "photos", tmp_path / "new")
    with pytest.raises(ConfigError, match="holds the tables that are to be read"):
        refilter(found / "out", found / "out" / ".." / "out")
    (tmp_path / "begun").mkdir()
    shutil.copy(found / "out" / "manifest.json", tmp_path / "begun")
    with pytest.raises(ConfigError, match="holds no committed unit yet"):
        refilter(tmp_path / "begun", tmp_path / "new")
    refilter(found / "out", tmp_path / "new", MEDIUM)
    with pytest.raises(ConfigError, match=r"judge\.keep is 'center' now and was 'all' there"):
        refilter(found / "out", tmp_path / "new", "judge.keep=center")
    shutil.copytree(found / "out", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"was made by facemill filter .*, not by facemill filter"):
        refilter(tmp_path / "out", tmp_path / "new", MEDIUM)
    with pytest.raises(ConfigError, match=r"was made by facemill filter .*, not by facemill run"):
        process(found / "photos", tmp_path / "new", MEDIUM)
    with pytest.raises(ConfigError, match=r"was made by facemill run, not by facemill filter"):
        refilter(found / "out", tmp_path / "out", MEDIUM)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "is missing, though its unit was committed"),
        ("cut", "is damaged"),
        ("empty", r"faces/unit-\w+\.parquet is damaged"),
        ("other", "is damaged: . faces, . in the images"),
        ("without", r"faces/unit-\w+\.parquet is damaged: the column landmarks is there 0 times"),
        ("texts", r"faces/unit-\w+\.parquet is damaged: the column x1 is string, not float"),
        ("sorted", "is damaged: the rows of the two are in different orders"),
        ("bare", "is damaged: its metadata do not say what made it"),
        ("marker", "cannot be judged anew in .*: Is a directory"),
    ],
)
def test_damaged_tables_are_told(damage: str, message: str, found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")
    first, *_ = open_output(Folder(str(tmp_path / "out"))).units
    table = tmp_path / "out" / faces_name(first)
    if damage == "missing":
        table.unlink()
    elif damage == "cut":
        table.write_bytes(table.read_bytes()[:-200])
    elif damage == "empty":
        table.write_bytes(b"")
    elif damage in ("without", "texts", "sorted"):
        rows = pq.read_table(table)
        texts = rows.set_column(rows.column_names.index("x1"), "x1", rows["x1"].cast(pa.string()))
        other = {"without": rows.drop_columns(["landmarks"]), "texts": texts, "sorted": rows[::-1]}
        pq.write_table(other[damage], table)
    elif damage == "bare":
        pq.write_table(pq.read_table(table).replace_schema_metadata(None), table)
    elif damage == "marker":
        marker = tmp_path / "out" / marker_name(first)
        marker.unlink()
        marker.mkdir()
    else:
        rows = pq.read_table(table)
        pq.write_table(pa.concat_tables([rows, rows.slice(0, 1)]), table)
    with pytest.raises(OutputError, match=message):
        refilter(tmp_path / "out", tmp_path / "new")
    assert first not in open_output(Folder(str(tmp_path / "new"))).units
    assert not list((tmp_path / "new").rglob("*.tmp"))


def in_groups(path: Path, counts: list[int]) -> None:
    """Write a table anew in row groups of these sizes."""
    rows = pq.read_table(path)
    with pq.ParquetWriter(path, rows.schema) as writer:
        start = 0
        for count in counts:
            writer.write_table(rows.slice(start, count), row_group_size=count)
            start += count
    assert pq.read_metadata(path).num_row_groups == len(counts) > 1 and start == len(rows)


def test_row_groups_are_taken_one_after_the_other(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "out", tmp_path / "out")
    unit = next(
        u for u in open_output(Folder(str(tmp_path / "out"))).units if "crowd/0.jpg" in str(images_of(found, u))
    )
    images, faces = tmp_path / "out" / images_name(unit), tmp_path / "out" / faces_name(unit)
    num_faces = [count for count in pq.read_table(images)["num_faces"].to_pylist() if count]
    in_groups(images, [1] * pq.read_metadata(images).num_rows)
    in_groups(faces, num_faces)
    refilter(tmp_path / "out", tmp_path / "new", *STRICTER)
    refilter(found / "out", tmp_path / "expected", *STRICTER)
    for table in ("images", "faces"):
        assert read_table(tmp_path / "new", table) == read_table(tmp_path / "expected", table)
    in_groups(faces, [1] * sum(num_faces))
    with pytest.raises(OutputError, match="damaged"):
        refilter(tmp_path / "out", tmp_path / "other", *STRICTER)


def images_of(found: Path, unit: str) -> list[str]:
    ids: list[str] = pq.read_table(found / "out" / images_name(unit), columns=["image_id"])["image_id"].to_pylist()
    return ids


@pytest.fixture
def store() -> Iterator[str]:
    """The URI of an empty folder on a store that is no local disk."""
    fs = fsspec.filesystem("memory")
    yield "memory://filtering"
    fs.rm("/filtering", recursive=True)


def test_progress_is_told_where_stderr_is_no_terminal(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    err = io.StringIO()
    result = filter_output(Folder(str(found / "out")), Folder(str(tmp_path / "new")), out=io.StringIO(), err=err)
    assert (
        err.getvalue().splitlines()[-1] == f"judging 100%, {result.after.num_units} of {result.after.num_units} units"
    )


def test_on_an_object_store(found: Path, store: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(found / "out"), "/filtering/out", recursive=True)
    result = filter_output(
        Folder(f"{store}/out"), Folder(f"{store}/new"), settings=STRICTER, num_workers=3, out=io.StringIO()
    )
    expected = refilter(found / "out", tmp_path / "new", *STRICTER)
    assert result.after == expected.after
    output = open_output(Folder(f"{store}/new"))
    rows = sorted(output.faces().to_table().to_pylist(), key=lambda row: str(row["face_id"]))
    assert rows == read_table(tmp_path / "new", "faces")
    crops = dict(crop for unit in output.units for crop in output.crops(unit))
    assert 0 < len(crops) == expected.after.num_kept
    assert crops.items() <= read_crops(found / "out").items()


def test_the_command(found: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "filter", str(found / "out"), "--workers", "2"]
    settings = ["--set", "judge.keep=center", "--output", str(tmp_path / "new")]
    done = subprocess.run([*command, *settings], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "judging 4 units\n")
    printed = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    earlier, new = (
        [row for row in read_table(folder, "faces") if row["kept"]] for folder in (found / "out", tmp_path / "new")
    )
    assert printed["before"] == ["after"]
    assert printed["kept"] == [str(len(earlier)), str(len(new))]
    assert printed["not_selected"] == ["0", str(len(earlier) - len(new))]
    assert done.stdout.splitlines()[-1] == f"crops: of all kept faces in {(found / 'out').absolute()}"
    settings[1] = "judge.keep=some"
    refused = subprocess.run([*command, *settings], capture_output=True, text=True)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1 and "judge.keep" in refused.stderr
