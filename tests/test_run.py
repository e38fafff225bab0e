"""The whole run, in real worker processes: what comes in, what goes out, and that it balances."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import archive, portrait, read_crops, read_table, write_loose, write_parquet, write_tar, write_zip
from PIL import Image

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.lock import hold_lock
from facemill.pipeline.run import RunRequest, RunResult, run
from facemill.transforms.ops.storage import Folder

NUM_PORTRAITS = 12
FILES = archive(NUM_PORTRAITS)
SMALL_UNITS = ("run.unit_files=4", "run.unit_bytes=20000")


def start(inputs: list[str], output: Path | str, *settings: str, **options: object) -> RunResult:
    request = RunRequest(
        inputs=inputs, output=Folder(str(output)), config=load_config(None, [*SMALL_UNITS, *settings]), **options
    )
    return run(request, out=io.StringIO(), err=io.StringIO())


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loose(tmp_path_factory.mktemp("inputs") / "photos", FILES)


@pytest.fixture(scope="module")
def output(loose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "out"
    assert start([str(loose)], folder).is_complete
    return folder


def test_every_input_has_one_row(output: Path) -> None:
    rows = {row["image_id"]: row for row in read_table(output, "images")}
    assert set(rows) == {f"photos/{name}" for name in FILES}
    for i in range(NUM_PORTRAITS):
        row = rows[f"photos/person_{i % 3}/{i:04d}.jpg"]
        assert (row["status"], row["num_faces"], row["num_kept"]) == ("ok", 1, 1)
        assert (row["label"], row["format"], row["width"], row["height"]) == (f"person_{i % 3}", "JPEG", 144, 144)
    assert rows["photos/scenes/cup.jpg"]["status"] == "no_face"
    assert rows["photos/broken/cut.jpg"]["reason"] == "truncated"
    assert rows["photos/broken/text.jpg"]["reason"] == "unsupported_format"


def test_faces_and_crops_balance(output: Path) -> None:
    faces = read_table(output, "faces")
    crops = read_crops(output)
    assert len(faces) == NUM_PORTRAITS
    assert {face["crop"] for face in faces} == set(crops)
    for face in faces:
        assert face["face_id"] == f"{face['image_id']}#0"
        assert face["kept"] and face["reason"] is None
        assert len(face["landmarks"]) == 10
        assert face["x1"] < face["landmarks"][0] < face["landmarks"][2] < face["x2"]


def test_crops_are_upright_and_in_colour(output: Path) -> None:
    crop = np.asarray(Image.open(io.BytesIO(read_crops(output)["unit-000001-000001-00.jpg"])), np.float64)
    assert crop.shape == (112, 112, 3)
    red, _, blue = crop[40:90, 36:76].mean(axis=(0, 1))
    assert red > blue + 20, "skin is redder than blue, unless the channels were swapped"


def test_manifest_names_models_and_configuration(output: Path) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    assert [len(model["sha256"]) for model in manifest["models"]] == [64, 64, 64]
    assert manifest["config"]["detect"]["min_face_size_px"] == 20
    assert manifest["inputs"]["photos"].endswith("/photos")
    assert manifest["versions"]["onnxruntime"]


def test_a_second_run_has_nothing_to_do(loose: Path, output: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name != "_run.lock"}
    assert start([str(loose)], output).is_complete
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name != "_run.lock"} == before


@pytest.mark.parametrize("damage", ["images are cut", "faces are cut", "images are zeros", "images lack num_kept"])
def test_labels_of_damaged_tables_cost_a_warning(damage: str, loose: Path, output: Path, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "out")
    table = min((tmp_path / "out" / damage.split()[0]).iterdir())
    content = table.read_bytes()
    if damage.endswith("cut"):
        table.write_bytes(content[:-200])
    elif damage.endswith("zeros"):
        footer = int.from_bytes(content[-8:-4], "little") + 8
        table.write_bytes(content[:4] + bytes(len(content) - footer - 4) + content[-footer:])
    else:
        pq.write_table(pq.read_table(table).drop_columns(["num_kept"]), table)
    request = RunRequest([str(loose)], Folder(str(tmp_path / "out")), load_config(None, SMALL_UNITS))
    out, err = io.StringIO(), io.StringIO()
    assert run(request, out=out, err=err).is_complete
    assert f"warning: the labels could not be counted ({table} is damaged: " in err.getvalue()
    assert "identities" not in out.getvalue() and "images" in out.getvalue()


def test_an_archive_that_grew_gets_new_units_only(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"a/1.jpg": portrait(1)})
    out = tmp_path / "out"
    start([str(folder)], out)
    first = (out / "crops" / "unit-000000.tar").stat().st_mtime_ns
    write_loose(folder, {"a/0.jpg": portrait(2), "b/1.jpg": portrait(3)})
    assert start([str(folder)], out).account.num_images == 3
    assert (out / "crops" / "unit-000000.tar").stat().st_mtime_ns == first
    assert [row["image_id"] for row in read_table(out, "images")] == [f"photos/{n}.jpg" for n in ("a/0", "a/1", "b/1")]


def test_an_input_that_changed_is_refused(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    start([str(folder)], tmp_path / "out")
    (folder / "1.jpg").write_bytes(portrait(2) + b"0")
    with pytest.raises(ConfigError, match=r"photos/1\.jpg had \d+ bytes when it was planned and has \d+ now"):
        start([str(folder)], tmp_path / "out")


def test_another_configuration_is_refused(loose: Path, output: Path) -> None:
    with pytest.raises(ConfigError, match=r"detect\.min_face_size_px is 40\.0 now and was 20\.0 there"):
        start([str(loose)], output, "detect.min_face_size_px=40")


@pytest.mark.parametrize(
    ("lost", "message"), [("plan", "plan is incomplete: it lacks unit-0"), ("manifest.json", "is missing")]
)
def test_an_output_that_lost_a_part_is_refused(lost: str, message: str, tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    start([str(folder)], tmp_path / "out")
    (tmp_path / "out" / lost).rename(tmp_path / "lost")
    with pytest.raises(OutputError, match=message):
        start([str(folder)], tmp_path / "out", "detect.min_face_size_px=40")


def test_a_run_killed_before_its_plan_was_written_is_not_taken_for_done(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    start([str(folder)], tmp_path / "out")
    for name in ("plan", "_units", "images", "faces", "crops"):
        (tmp_path / "out" / name).rename(tmp_path / name)
    with pytest.raises(ConfigError, match="holds no run to go on with"):
        start([], tmp_path / "out")
    assert start([str(folder)], tmp_path / "out").account.num_images == 1


def test_an_input_folder_that_is_gone_is_not_written_off(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {f"{i}.jpg": portrait(i) for i in range(8)})
    out = tmp_path / "out"
    start([str(folder)], out)
    (out / "_units" / "unit-000001.json").unlink()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"the input photos \(file://\S+\) is gone; bring it back"):
        start([], out)
    (tmp_path / "elsewhere").rename(folder)
    assert start([], out).account.statuses["ok"] == 8


def test_an_archive_that_was_moved_is_not_done_twice(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {f"{i}.jpg": portrait(i) for i in range(4)})
    out = tmp_path / "out"
    start([str(folder)], out)
    elsewhere = folder.rename(tmp_path / "elsewhere")
    write_loose(elsewhere, {"new.jpg": portrait(4)})
    with pytest.raises(ConfigError, match=r"4 of 5 inputs of file:///\S+/elsewhere .* --moved photos=file:///"):
        start([str(elsewhere)], out)
    with pytest.raises(ConfigError, match="--moved names the input 'fotos', and there is photos"):
        start([str(elsewhere)], out, moved={"fotos": str(elsewhere)})
    assert start([str(elsewhere)], out, moved={"photos": str(elsewhere)}).account.num_images == 5
    assert start([str(elsewhere)], out).account.num_images == 5, "it is told once"


def test_an_earlier_output_in_the_input_is_no_input(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    start([str(folder)], folder / "first")
    assert start([str(folder)], tmp_path / "second").account.num_images == 1


def test_an_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    with pytest.raises(ConfigError, match="is the input"):
        start([str(folder)], folder)


def test_an_archive_without_a_readable_file_is_not_done(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": b"no picture"})
    assert not start([str(folder)], tmp_path / "out").is_complete


def test_two_runs_at_once_are_refused(loose: Path, output: Path) -> None:
    with hold_lock(Folder(str(output))), pytest.raises(ConfigError, match="another run is writing to"):
        start([str(loose)], output)


def test_roots_of_one_name_do_not_collide(tmp_path: Path) -> None:
    inputs = [str(write_loose(tmp_path / side / "photos", {"1.jpg": portrait(n)})) for n, side in enumerate("ab")]
    start(inputs, tmp_path / "out")
    assert [row["image_id"] for row in read_table(tmp_path / "out", "images")] == ["photos-2/1.jpg", "photos/1.jpg"]


def test_an_input_below_two_roots_is_refused(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"a/1.jpg": portrait(1)})
    with pytest.raises(ConfigError, match="lies below two input roots"):
        start([str(folder), str(folder / "a")], tmp_path / "out")


def test_a_folder_and_a_link_to_it_are_one(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigError, match="lies below two input roots"):
        start([str(folder), str(tmp_path / "link")], tmp_path / "out")


def test_a_link_that_was_mended_is_done_again(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    (folder / "2.jpg").symlink_to(tmp_path / "nowhere")
    assert start([str(folder)], tmp_path / "out").account.statuses["failed"] == 1
    (folder / "2.jpg").unlink()
    write_loose(folder, {"2.jpg": portrait(2)})
    assert start([str(folder)], tmp_path / "out", retry_failed=True).account.statuses["ok"] == 2


def test_an_output_inside_the_input_is_no_input(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    for _ in range(2):
        assert start([str(folder)], folder / "out").account.num_images == 1


def comparable(output: Path) -> tuple[list[dict], list[dict], list[bytes]]:
    """Tables and crops without what the packaging must change: names of units, sources and members."""
    images = read_table(output, "images")
    hashes = {row["image_id"]: row["sha256"] for row in images}
    faces = read_table(output, "faces")
    crops = read_crops(output)
    for row in images:
        for key in ("image_id", "unit", "source", "member"):
            row.pop(key)
    for row in faces:
        row["of"] = hashes[row.pop("image_id")]
        row["pixels"] = crops[row.pop("crop")]
        for key in ("face_id", "unit"):
            row.pop(key)
    return (
        sorted(images, key=lambda row: row["sha256"]),
        sorted(faces, key=lambda row: (row["of"], row["face_index"])),
        sorted(crops.values()),
    )


@pytest.mark.parametrize("packaging", ["tar", "tar.gz", "zip", "parquet"])
def test_the_packaging_does_not_change_the_result(packaging: str, output: Path, tmp_path: Path) -> None:
    write = {
        "tar": write_tar,
        "tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
        "zip": write_zip,
        "parquet": write_parquet,
    }[packaging]
    half = len(FILES) // 2
    write(tmp_path / "in" / f"one.{packaging}", dict(sorted(FILES.items())[:half]))
    write(tmp_path / "in" / f"two.{packaging}", dict(sorted(FILES.items())[half:]))
    start([str(tmp_path / "in")], tmp_path / "out")
    assert comparable(tmp_path / "out") == comparable(output)


@pytest.mark.parametrize(
    "settings",
    [("run.batch_pixels=1",), ("run.batch_pixels=50000", "run.batch_bytes=1"), ("run.batch_bytes=100000000",)],
)
def test_the_batch_size_and_the_workers_do_not_change_the_result(
    settings: tuple[str, ...], loose: Path, output: Path, tmp_path: Path
) -> None:
    start([str(loose)], tmp_path / "out", *settings, num_workers=2)
    assert read_table(tmp_path / "out", "images") == read_table(output, "images")
    assert read_table(tmp_path / "out", "faces") == read_table(output, "faces")
    assert read_crops(tmp_path / "out") == read_crops(output)


@pytest.mark.parametrize("store", ["files", "parquet", "none"])
def test_other_stores_hold_the_same_crops(store: str, loose: Path, output: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    start([str(loose)], out, f"write.crops={store}")
    expected = {} if store == "none" else read_crops(output)
    if store == "files":
        found = {path.name: path.read_bytes() for path in (out / "files").rglob("*.jpg")}
    else:
        tables = [pq.read_table(path) for path in (out / "crops").glob("*.parquet")]
        found = {row["crop"]: row["image"] for table in tables for row in table.to_pylist()}
    assert found == expected


def test_known_faces_take_the_place_of_detection(loose: Path, output: Path, tmp_path: Path) -> None:
    start([str(loose)], tmp_path / "out", f"landmarks.known_faces={output}/faces")
    known = read_table(tmp_path / "out", "faces")
    assert len(known) == NUM_PORTRAITS
    assert known == read_table(output, "faces")
    assert read_crops(tmp_path / "out") == read_crops(output)


def test_known_faces_of_another_archive_are_an_error(output: Path, tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "others", {"1.jpg": portrait(1)})
    with pytest.raises(OutputError, match=f"none of the {NUM_PORTRAITS} known faces"):
        start([str(folder)], tmp_path / "out", f"landmarks.known_faces={output}/faces")


def test_known_faces_of_other_images_are_told(loose: Path, output: Path, tmp_path: Path) -> None:
    few = write_loose(tmp_path / "photos", {name: FILES[name] for name in sorted(FILES)[:5]})
    errors = io.StringIO()
    config = load_config(None, [f"landmarks.known_faces={output}/faces"])
    result = run(RunRequest([str(few)], Folder(str(tmp_path / "out")), config), out=io.StringIO(), err=errors)
    unused = NUM_PORTRAITS - result.account.num_faces
    assert f"warning: {unused} of {NUM_PORTRAITS} known faces have no box or belong to no image" in errors.getvalue()


def test_input_and_output_may_be_any_fsspec_url(output: Path, tmp_path: Path) -> None:
    # A file system that worker processes share: fsspec's own view of a local folder by another protocol.
    source = write_loose(tmp_path / "photos", FILES)
    start([f"file://{source}"], f"file://{tmp_path}/out")
    assert read_table(tmp_path / "out", "faces") == read_table(output, "faces")


def run_command(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "facemill.pipeline.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, preexec_fn=heed_interrupts, **pipes, **options)


def heed_interrupts() -> None:
    """A process started in the background of a shell ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {f"{i}.jpg": portrait(i) for i in range(120)})
    arguments = ["run", "--input", str(folder), "--output", str(tmp_path / "out"), "--set", "run.unit_files=4"]
    process = run_command(*arguments, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("_units/*.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    process = run_command(*arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(read_table(tmp_path / "out", "images")) == 120
