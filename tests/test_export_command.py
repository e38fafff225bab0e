"""`facemill export` from outside: what is refused, begun anew, left alone, and what a kill leaves."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from exported import FORMATS, load
from made_outputs import MadeFace, made_crop, write_output
from servers import s3_server

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.export.destination import open_destination
from facemill.pipeline.export.files import ExportWriter
from facemill.pipeline.export.job import ExportRequest, export
from facemill.pipeline.export.options import ExportOptions, parse_splits
from facemill.transforms.ops.committing import digest_marker
from facemill.transforms.ops.storage import Folder

FACES = [MadeFace(f"{label}/{number}.jpg", label, made_crop(number)) for label in "abc" for number in range(20)]
CONTENTS = {f"{face.image_id}#0": face.crop for face in FACES}
MANY = 12_000


def facemill(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facemill.pipeline.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def in_process(source: Path, destination: Folder, format: str = "csv", **options: object) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    made = ExportOptions(format=format, **options)  # type: ignore[arg-type]
    export(ExportRequest(source=Folder(str(source)), destination=destination, options=made), out=out, err=err)
    return out.getvalue(), err.getvalue()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an output folder `out`, and one without crops."""
    path = tmp_path_factory.mktemp("work")
    write_output(Folder(str(path / "out")), {"u0": FACES[:31], "u1": FACES[31:]})
    write_output(Folder(str(path / "bare")), {"u0": FACES}, "write.crops=none")
    (path / "busy").mkdir()
    (path / "busy" / "notes.txt").write_text("mine")
    (path / "file").write_text("")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("export out --output never", "the following arguments are required: --to"),
        ("export out --to csv", "the following arguments are required: --output"),
        ("export out --to zip --output never", "argument --to: invalid choice: 'zip'"),
        ("export busy --to csv --output never", "busy is no output folder of facemill: it holds no manifest.json"),
        ("export nowhere --to csv --output never", "nowhere is no output folder of facemill"),
        ("export bare --to csv --output never", "bare holds tables alone, as write.crops is none"),
        ("export out --to csv --output busy", "busy is not empty and holds no export of facemill"),
        ("export out --to csv --output out", "the output out lies in out, which is read; choose a folder beside it"),
        ("export out --to csv --output busy/../out/sets/a", "out/sets/a lies in out, which is read"),
        ("export out --to csv --output file", "cannot make the output folder file"),
        ("export out --to csv --output never --template ffhq256", "holds no crops of the template 'ffhq256'"),
        ("export out --to csv --output never --split train=0.5", "the shares of --split must add up to 1"),
        ("export out --to csv --output never --split train=0.99,test=0.01", "none of the 3 identities falls into test"),
        ("export out --to csv --output never --min-images 21", "60 of 3 identities with fewer than --min-images 21"),
        ("export out --to csv --output never --min-images 0", "argument --min-images: must be at least 1, got 0"),
        ("export out --to csv --output never --drop-duplicates near", "facemill duplicates out"),
        ("export out --to csv --output never --scratch nowhere", "cannot write to nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(line: str, message: str, folder: Path) -> None:
    done = facemill(*line.split(), folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (folder / "never").exists()
    assert (folder / "busy" / "notes.txt").read_text() == "mine"


def test_the_summary_accounts_for_every_face(folder: Path, tmp_path: Path) -> None:
    faces = [*FACES, MadeFace("alone/0.jpg", "alone", b"x"), MadeFace("loose.jpg", None, b"x")]
    write_output(Folder(str(tmp_path / "out")), {"u0": [*faces, MadeFace("bad.jpg", "a", b"x", kept=False)]})
    line = "export out --to webdataset --output set --split train=0.6,test=0.4 --min-images 2 --max-images 15"
    done = facemill(*line.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "faces             62   kept",
        "  left out         1   without a label; --unlabelled keep exports them",
        "  left out         1   of 1 identities with fewer than 2",
        "  left out        15   of identities with more than 15",
        "exported          45   webdataset in set",
        "  train           30   of 2 identities",
        "  test            15   of 1 identities",
    ]


def test_images_with_several_faces_of_one_label_are_told(folder: Path, tmp_path: Path) -> None:
    second = {"face_id": "a/0.jpg#1"}
    faces = [*FACES, MadeFace("a/0.jpg", "a", made_crop(1), columns=second), MadeFace("b/0.jpg", "b", b"x", False)]
    write_output(Folder(str(tmp_path / "out")), {"u0": faces})
    _, told = in_process(tmp_path / "out", Folder(str(tmp_path / "set")))
    assert "warning: 1 labelled image has several kept faces, each with the label" in told


def test_the_same_again_does_nothing(folder: Path) -> None:
    line = ["export", "out", "--to", "tfrecord", "--output", "twice", "--split", "train=0.6,test=0.4"]
    first = facemill(*line, folder=folder)
    times = {path: path.stat().st_mtime_ns for path in (folder / "twice").iterdir()}
    again = facemill(*line, folder=folder)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert again.stdout == first.stdout
    assert again.stderr.splitlines()[-1] == "nothing to do: this export is there and complete"
    assert {path: path.stat().st_mtime_ns for path in (folder / "twice").iterdir()} == times


def test_another_export_in_the_same_folder_is_refused(folder: Path) -> None:
    destination = Folder(str(folder / "taken"))
    in_process(folder / "out", destination)
    before = files_of(folder / "taken")
    with pytest.raises(ConfigError, match="taken holds another export: seed is 1 now and was 0"):
        in_process(folder / "out", destination, seed=1)
    with pytest.raises(ConfigError, match="taken holds another export: format is 'hf' now and was 'csv'"):
        in_process(folder / "out", destination, "hf")
    write_output(Folder(str(folder / "other")), {"u0": FACES[:-1]})
    with pytest.raises(ConfigError, match="taken holds an export of other faces"):
        in_process(folder / "other", destination)
    anew = [*FACES[:-1], replace(FACES[-1], columns={"phash": "0123456789abcdef"})]
    write_output(Folder(str(folder / "anew")), {"u0": anew})
    with pytest.raises(ConfigError, match="taken holds an export of other faces"):
        in_process(folder / "anew", destination)
    assert files_of(folder / "taken") == before


def test_an_export_whose_files_are_gone_is_refused(folder: Path, tmp_path: Path) -> None:
    in_process(folder / "out", Folder(str(tmp_path / "set")), "webdataset")
    (tmp_path / "set" / "train-000000.tar").write_bytes(b"cut")
    with pytest.raises(ConfigError, match=r"train-000000.tar is missing or has changed since it was exported"):
        in_process(folder / "out", Folder(str(tmp_path / "set")), "webdataset")


@pytest.mark.parametrize("format", ["csv", "imagefolder"])
def test_an_export_whose_crops_are_gone_is_refused(format: str, folder: Path, tmp_path: Path) -> None:
    in_process(folder / "out", Folder(str(tmp_path / "set")), format)
    _, again = in_process(folder / "out", Folder(str(tmp_path / "set")), format)
    assert again.splitlines()[-1] == "nothing to do: this export is there and complete"
    next((tmp_path / "set" / "train").rglob("*.jpg")).unlink()
    with pytest.raises(ConfigError, match=r"set/train holds 59 crops of 60 exported ones; choose a new folder"):
        in_process(folder / "out", Folder(str(tmp_path / "set")), format)


def test_a_missing_crop_breaks_the_balance_and_the_next_export_begins_anew(folder: Path, tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "out")), {"u0": FACES[:31], "u1": FACES[31:]})
    whole = (tmp_path / "out" / "crops" / "u1.tar").read_bytes()
    shutil.copy(tmp_path / "out" / "crops" / "u0.tar", tmp_path / "out" / "crops" / "u1.tar")
    destination = Folder(str(tmp_path / "set"))
    with pytest.raises(OutputError, match=r"does not balance: 29 crops of u1 are missing in .*, such as u1-000000-00"):
        in_process(tmp_path / "out", destination)
    assert (tmp_path / "set" / "export.partial.json").exists()
    assert not (tmp_path / "set" / "export.json").exists()
    assert not list((tmp_path / "set").glob(".export-*")), "the crops on their way are removed"

    (tmp_path / "out" / "crops" / "u1.tar").write_bytes(whole)
    (tmp_path / "set" / "mine.txt").write_text("a file of somebody else")
    in_process(tmp_path / "out", destination, "lmdb")
    assert {face.face_id: face.content for face in load(tmp_path / "set", "lmdb", "train")} == CONTENTS
    assert not (tmp_path / "set" / "train.csv").exists()
    assert (tmp_path / "set" / "mine.txt").exists()


@pytest.mark.parametrize(("crop", "what"), [(b"", "empty"), (bytes(99), "neither JPEG nor PNG")])
@pytest.mark.parametrize("format", ["csv", "tfrecord"])
def test_a_crop_that_is_none_is_told(format: str, crop: bytes, what: str, tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "out")), {"u0": [MadeFace("a.jpg", "a", crop)]})
    with pytest.raises(OutputError, match=rf"the crop u0-000000-00.jpg of u0 in .*/out is {what}; facemill crop"):
        in_process(tmp_path / "out", Folder(str(tmp_path / "set")), format)


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG"])
@pytest.mark.parametrize("format", ["recordio", "tfrecord"])
def test_a_crop_without_a_size_is_told(format: str, start: bytes, tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "out")), {"u0": [MadeFace("a.jpg", "a", start)]})
    with pytest.raises(OutputError, match=r"the crop of a.jpg#0 is damaged; facemill crop makes new ones"):
        in_process(tmp_path / "out", Folder(str(tmp_path / "set")), format)


def test_an_unfinished_run_is_told(folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.txt").write_text("no input")
    shutil.copytree(folder / "out", tmp_path / "out")
    from facemill.pipeline.plan import append_units, read_plan
    from facemill.transforms.ops.units import Unit

    output = Folder(str(tmp_path / "out"))
    units = [Unit(f"u{number}", "tar", (f"in/{number}.tar",), (1,), 1) for number in range(5)]
    append_units(output, read_plan(output), units)
    _, err = in_process(tmp_path / "out", Folder(str(tmp_path / "set")))
    assert err.splitlines() == [
        "warning: 3 planned units are not done, and their faces are not exported",
        "selecting faces of 2 units",
        "reading 60 faces",
        "writing 60 faces",
    ]


def test_one_of_several_templates_is_named(tmp_path: Path) -> None:
    faces = [MadeFace(f"{n}.jpg", "a", made_crop(n), others={"ffhq256": made_crop(n + 50)}) for n in range(3)]
    write_output(Folder(str(tmp_path / "out")), {"u0": faces}, "align.template=[arcface112, ffhq256]")
    with pytest.raises(ConfigError, match="holds crops of arcface112, ffhq256; name one with --template"):
        in_process(tmp_path / "out", Folder(str(tmp_path / "set")))
    in_process(tmp_path / "out", Folder(str(tmp_path / "set")), template="ffhq256")
    in_process(tmp_path / "out", Folder(str(tmp_path / "other")), template="arcface112")
    alike = [
        [(face.face_id, face.index) for face in load(tmp_path / name, "csv", "train")] for name in ("set", "other")
    ]
    assert alike[0] == alike[1]
    assert {face.content for face in load(tmp_path / "set", "csv", "train")} == {made_crop(n + 50) for n in range(3)}
    with pytest.raises(ConfigError, match="template is 'arcface112' now and was 'ffhq256'"):
        in_process(tmp_path / "out", Folder(str(tmp_path / "set")), template="arcface112")


def test_tables_whose_crops_lie_in_another_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "strict", ignore=shutil.ignore_patterns("crops"))
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    made = {**manifest, "filtered": str(folder / "out"), "crops_from": str(folder / "out")}  # as facemill filter says
    (tmp_path / "strict" / "manifest.json").write_text(json.dumps(made))
    for marker in (tmp_path / "strict" / "_units").iterdir():
        content = marker.read_bytes()
        marker.write_text(json.dumps({**json.loads(content), "crops_digest": digest_marker(content)}))
    in_process(tmp_path / "strict", Folder(str(tmp_path / "set")))
    assert {face.face_id: face.content for face in load(tmp_path / "set", "csv", "train")} == CONTENTS

    (tmp_path / "strict" / "manifest.json").write_text(json.dumps({**made, "crops_from": ""}))
    with pytest.raises(ConfigError, match="has kept faces without a crop; facemill crop"):
        in_process(tmp_path / "strict", Folder(str(tmp_path / "other")))


@pytest.mark.parametrize("store", ["files", "parquet"])
def test_crops_in_other_stores(store: str, tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "out")), {"u0": FACES[:31], "u1": FACES[31:]}, f"write.crops={store}")
    in_process(tmp_path / "out", Folder(str(tmp_path / "set")))
    assert {face.face_id: face.content for face in load(tmp_path / "set", "csv", "train")} == CONTENTS


def test_what_is_left_of_a_broken_off_export_on_a_store_is_removed(folder: Path) -> None:
    store = Folder("memory://broken/off")
    for name in ("data/train-00007-of-00009.parquet", "README.md", "mine.txt"):
        store.write_bytes(name, b"old")
    store.write_bytes("export.partial.json", json.dumps({"entries": ["data", "README.md"]}).encode())
    in_process(folder / "out", store, "webdataset")
    assert {path.removeprefix(f"{store.path}/") for path in store.fs.find(store.path)} == {
        *("classes.csv", "classes.json", "classes.txt", "export.json", "mine.txt", "train-000000.tar")
    }


def test_two_exports_to_one_folder_do_not_mix(folder: Path, tmp_path: Path) -> None:
    from facemill.pipeline.lock import hold_lock

    destination = Folder(str(tmp_path))
    with hold_lock(destination), pytest.raises(ConfigError, match="another run is writing to"):
        in_process(folder / "out", destination)


def test_a_lock_that_leaves_no_file_has_one_holder_at_a_time(tmp_path: Path) -> None:
    from facemill.pipeline.lock import hold_lock

    holders: list[int] = []
    most: list[int] = []

    def hold(number: int) -> None:
        with contextlib.suppress(ConfigError), hold_lock(Folder(str(tmp_path)), keeps_file=False):
            holders.append(number)
            for _ in range(20):
                tmp_path.stat()  # lets others go on
            most.append(len(holders))
            holders.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(1000)))
    assert set(most) == {1}
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_elsewhere_is_removed_by_the_next(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    destinations = [Folder("memory://killed/set"), Folder("memory://killed/other")]
    for destination in destinations:  # what is in a scratch folder while an export is under way
        with open_destination(destination) as made, made.scratch(str(tmp_path / "scratch")) as scratch:
            shutil.copytree(scratch, tmp_path / "kept" / scratch.name)
            with made.create("train-000000.tar") as gathered:
                gathered.write(b"on its way")
                assert len(list(scratch.iterdir())) == 1
    shutil.copytree(tmp_path / "kept", tmp_path / "scratch", dirs_exist_ok=True)
    assert len(list((tmp_path / "scratch").iterdir())) == 2
    request = ExportRequest(Folder(str(folder / "out")), destinations[0], ExportOptions(format="csv"))
    destinations[0].fs.rm(destinations[0].path, recursive=True)
    export(replace(request, scratch=str(tmp_path / "scratch")), out=io.StringIO(), err=io.StringIO())
    assert len(list((tmp_path / "scratch").iterdir())) == 1, "what another export may be using is left"


def test_a_file_that_cannot_be_committed_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="taken: Is a directory"),
        ExportWriter(Folder(str(tmp_path)), "taken", []) as file,
    ):
        file.write(b"content")
        (tmp_path / "taken").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_object_store(format: str, folder: Path, tmp_path: Path) -> None:
    store = Folder(f"memory://{format}/set")
    options = {"splits": parse_splits("train=0.6,test=0.4"), "shard_bytes": 10_000}
    in_process(folder / "out", store, format, **options)
    in_process(folder / "out", Folder(str(tmp_path / "set")), format, **options)
    found = {path.removeprefix(f"{store.path}/"): bytes(store.fs.cat_file(path)) for path in store.fs.find(store.path)}
    assert found == files_of(tmp_path / "set")


@pytest.mark.slow
def test_a_tool_for_s3_reads_what_was_exported_to_it(folder: Path, tmp_path: Path) -> None:
    import s3fs

    with s3_server() as address:
        options = {"key": "k", "secret": "s", "endpoint_url": address}
        store = s3fs.S3FileSystem(**options)
        store.mkdir("bucket")
        arguments = [
            "--to",
            "imagefolder",
            "--output",
            "s3://bucket/set",
            "--storage-options",
            json.dumps({"s3": options}),
        ]
        done = facemill("export", "out", *arguments, folder=folder)
        assert done.returncode == 0, done.stderr
        store.get("bucket/set/", str(tmp_path / "set"), recursive=True)
        again = facemill("export", "out", *arguments, folder=folder)
        assert again.stderr.splitlines()[-1] == "nothing to do: this export is there and complete"
    assert {face.face_id: face.content for face in load(tmp_path / "set", "imagefolder", "train")} == CONTENTS


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose exports take long enough to be interrupted."""
    path = tmp_path_factory.mktemp("large")
    crops = [made_crop(number) for number in range(64)]
    faces = (MadeFace(f"{n % 600}/{n}.jpg", f"p{n % 600}", crops[n % 64]) for n in range(MANY))
    write_output(Folder(str(path / "out")), {"u0": faces})
    return path


def heed_interrupts() -> None:
    """A process started in the background of a shell ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "number"),
    [
        ("webdataset", signal.SIGKILL),
        ("imagefolder", signal.SIGTERM),
        ("lmdb", signal.SIGKILL),
        ("hf", signal.SIGINT),
    ],
)
def test_an_interrupted_export_begins_anew(format: str, number: signal.Signals, large: Path, tmp_path: Path) -> None:
    dice = random.Random(f"{format} {number}")
    command = [sys.executable, "-m", "facemill.pipeline.cli", "export", str(large / "out"), "--to", format]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "set")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    while not (tmp_path / "set" / "export.partial.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1 * dice.random())
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert not (tmp_path / "set" / "export.json").exists(), "the export ended before it could be interrupted"
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "interrupted; the same command begins anew"
        assert not (tmp_path / "set" / "_run.lock").exists()
        assert not list((tmp_path / "set").glob(".export-*"))
    again = subprocess.run([*command, "--output", str(tmp_path / "set")], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    whole = large / f"{format}-whole"
    if not whole.exists():
        subprocess.run([*command, "--output", str(whole)], capture_output=True, check=True, timeout=60)
    assert files_of(tmp_path / "set") == files_of(whole)


def test_progress_is_plain_lines_where_stderr_is_no_terminal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facemill.pipeline.export import progress

    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    err = io.StringIO()
    assert list(progress.track(range(2), 2, "writing", err)) == [0, 1]
    assert list(progress.track([7], 1, "judging", err, unit="units")) == [7]
    assert err.getvalue().splitlines() == [
        "writing 2 faces",
        "writing  50%, 1 of 2 faces",
        "writing 100%, 2 of 2 faces",
        "judging 1 units",
        "judging 100%, 1 of 1 units",
    ]


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from facemill.pipeline.export.progress import track

    err = Terminal()
    assert len(list(track(range(3000), 3000, "writing", err))) == 3000
    assert re.search(r"writing 100% 3.00k of 3.00k, .* faces/s, 00:00 left", err.getvalue())
    assert os.linesep not in err.getvalue().rstrip()
