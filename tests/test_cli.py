"""The command line from outside, as processes: exit codes, messages, and what goes to which stream."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import portrait, scenery, write_loose

from facemill.pipeline.cli import main

# A shell's Python has buffered output, whatever the environment of these tests says.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
HEAVY = ("apache_beam", "numpy", "cv2", "pyarrow", "onnxruntime", "pydantic", "fsspec")


def facemill(*arguments: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facemill.pipeline.cli", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        text=True,
        timeout=60,
        **{"capture_output": True, "env": ENVIRONMENT, **options},  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two pictures, a folder without any, and a configuration that is no YAML."""
    path = write_loose(tmp_path_factory.mktemp("work"), {"photos/anna/1.jpg": portrait(1), "photos/2.jpg": scenery(0)})
    return write_loose(path, {"texts/notes.txt": b"", "file": b"", "broken.yaml": b"{", "list.yaml": b"[1]"})


RUN = ("run", "--input", "photos", "--output", "never")
WRONG = [
    ("", "the following arguments are required: COMMAND"),
    ("mill", "invalid choice: 'mill'"),
    ("report out --sede 1", "facemill report: unrecognized arguments: --sede 1; did you mean --seed?"),
    pytest.param(["report", ""], "argument OUT: an empty name; for the folder you are in write .", id="empty OUT"),
    pytest.param([*RUN, "--faces", ""], "argument --faces: an empty name", id="empty --faces"),
    pytest.param(["demo", "--output", ""], "argument --output: an empty name", id="empty --output"),
    ("RUN --template arcface112,ffhq", "got 'ffhq'"),
    ("run --input photos", "the following arguments are required: --output"),
    ("run --inputs photos --output never", "unrecognized arguments: --inputs"),
    ("detect photos --fast", "unrecognized arguments: --fast"),
    ("detect", "the following arguments are required: IMAGE"),
    ("crop --output new --template a out", "arguments are required: OUT; name OUT before --template"),
    ("check-crops --template a crops", "arguments are required: CROPS; name CROPS before --template"),
    ("RUN --workers 0", "argument --workers: must be at least 1, got 0"),
    ("RUN --workers -1", "argument --workers: must be at least 1, got -1"),
    ("RUN --storage-options {", "argument --storage-options: not valid JSON"),
    ("RUN --storage-options [1]", "argument --storage-options: must be a JSON object such as"),
    ("RUN --config reknowledge", "no preset is called 'reknowledge'; there are annotation, default, recognition"),
    ("RUN --config nowhere.yaml", "cannot read the configuration nowhere.yaml"),
    pytest.param(
        "RUN --config broken.yaml",
        "the configuration broken.yaml is not valid YAML",
        id="broken YAML",
    ),
    ("RUN --config list.yaml", "list.yaml: expected sections with keys, got [1]"),
    ("RUN --set workers", "--set wants section.key=value, got 'workers'"),
    ("RUN --set detect.min_face_size=40", "unknown key detect.min_face_size; did you mean min_face_size_px?"),
    ("RUN --set detect.min_face_size_px=small", "detect.min_face_size_px: Input should be a valid number, got 'small'"),
    ("RUN --set detect.scale_factor=1.2", "scale_factor must lie in (0, 0.99], got 1.2"),
    ("RUN --runner DaskRunner", "--runner DaskRunner loses outputs"),
    ("run --input nowhere --output never", "no input at nowhere"),
    ("run --input texts --output never", "no input at texts: it holds no file that could be an image or a shard"),
    ("run --input photos --output file", "cannot make the output folder file"),
    ("run --output empty", "empty holds no run to go on with; name the --input"),
    ("detect nowhere.jpg", "no input at nowhere.jpg"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    line: str | list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    try:
        code: object = main(line.replace("RUN", " ".join(RUN)).split() if isinstance(line, str) else line)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert message in said.err
    assert said.err.startswith("facemill")
    assert len(said.err.splitlines()) <= 2
    assert not (folder / "never").exists(), "something was written before the request was checked"


def test_workers_that_are_no_number_are_told_in_plain_words(folder: Path) -> None:
    done = facemill(*RUN, "--workers", "many", folder=folder)
    assert done.returncode == 2
    assert "many" in done.stderr
    assert "_positive" not in done.stderr


HELP = [
    ("--help",),
    ("--version",),
    ("run", "--help"),
    ("detect", "--help"),
    ("report", "--help"),
    ("export", "--help"),
]


@pytest.mark.parametrize("arguments", HELP)
def test_help_is_quick_and_imports_nothing_heavy(arguments: tuple[str, ...], folder: Path) -> None:
    program = (
        "import atexit, sys; from facemill.pipeline.cli import main\n"
        f"atexit.register(lambda: sys.stderr.write(' '.join(name for name in {HEAVY} if name in sys.modules)))\n"
        f"main({arguments})"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"facemill \d+\.\d+" if arguments == ("--version",) else "usage: facemill", done.stdout)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.7  # CPU seconds; it takes 0.1


def test_a_request_that_is_refused_never_waits_for_beam(folder: Path) -> None:
    program = (
        "import sys; from facemill.pipeline.cli import main\n"
        "code = main(['run', '--input', 'nowhere', '--output', 'never'])\n"
        "sys.exit(f'{code} {\"apache_beam\" in sys.modules}')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=60)
    assert done.stderr.splitlines()[-1] == "2 False"


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    return facemill("run", "--input", "photos", "--output", "out", "--workers", "1", folder=folder)


def test_stdout_holds_the_summary_and_nothing_else(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["images", "2"],
        ["ok", "1"],
        ["rejected", "0"],
        ["no_face", "1"],
        ["failed", "0"],
        ["faces", "1"],
        ["kept", "1"],
        ["of", "1"],
        ["rejected", "0"],
        ["units", "1"],
        ["report", f"{folder}/out/report.html"],
    ]


def test_progress_is_plain_lines_where_stderr_is_no_terminal(done: subprocess.CompletedProcess[str]) -> None:
    opening, progress = done.stderr.splitlines()
    assert opening == "units: 1 planned, 0 committed, 1 to do"
    assert re.fullmatch(r"100% 2 images, [\d.]+/s, 1 kept, 0 failed, \d\d:\d\d gone", progress), (
        "no bar, no carriage return, no colour"
    )


def test_without_input_a_run_goes_on_with_what_was_planned(
    done: subprocess.CompletedProcess[str], folder: Path
) -> None:
    again = facemill("run", "--output", "out", folder=folder)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert again.stderr == "units: 1 planned, 1 committed, 0 to do\n"


def test_without_input_and_settings_a_run_takes_those_it_was_begun_with(folder: Path) -> None:
    begun = ("--set", "judge.keep=best", "--template", "arcface112,square256", "facenet160")
    assert "crops: 3 of each" in facemill("run", "--input", "photos", "--output", "begun", *begun, folder=folder).stdout
    assert facemill("run", "--output", "begun", folder=folder).returncode == 0
    other = facemill("run", "--output", "begun", "--set", "judge.keep=largest", folder=folder)
    assert other.returncode == 2
    assert "align.template is 'arcface112' now and was ['arcface112', 'square256', 'facenet160'] there" in other.stderr
    assert "judge.keep is 'largest' now and was 'best' there" in other.stderr


def test_an_output_on_an_unknown_store_is_one_line(folder: Path) -> None:
    done = facemill("run", "--input", "photos", "--output", "nowhere://bucket/out", folder=folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "cannot use nowhere://bucket/out: Protocol not known: nowhere" in done.stderr


@pytest.mark.parametrize(("output", "message"), [("", "write ."), ("a::b", ":: in its name is not supported")])
def test_an_output_that_would_land_elsewhere_is_refused(output: str, message: str, folder: Path) -> None:
    done = facemill("run", "--input", "photos", "--output", output, folder=folder)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, folder: Path) -> None:
    output = f"closed-{len(closed)}"
    command = f"{sys.executable} -m facemill.pipeline.cli run --input photos --output {output} {closed}"
    assert subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True).returncode == 0
    assert list((folder / output / "_units").glob("*.json"))


def test_an_empty_input_is_not_this_folder(folder: Path) -> None:
    done = facemill("run", "--input", "", "--output", "empty", folder=folder)
    assert done.returncode == 2
    assert "for the folder you are in write ." in done.stderr


def test_something_lost_ends_with_1(folder: Path) -> None:
    done = facemill("detect", "file", folder=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"facemill: .*/file: empty: .*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "photos"),
        ("detect", "photos/2.jpg"),
        ("run", "--output", "out"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("done")
def test_a_reader_that_went_away_is_no_traceback(arguments: tuple[str, ...], folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = facemill(*arguments, folder=folder, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert "BrokenPipe" not in ended.stderr
    assert ended.returncode == 1


@pytest.mark.parametrize(("name", "code"), [("manifest.json", 1), ("_run.lock", 2)])
def test_an_output_that_cannot_be_opened_is_no_traceback(name: str, code: int, folder: Path) -> None:
    output = f"blocked-by-{name}"
    (folder / output / name).mkdir(parents=True)
    done = facemill("run", "--input", "photos", "--output", output, folder=folder)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert name in done.stderr


def test_a_wrong_table_of_known_faces_leaves_the_output_usable(folder: Path) -> None:
    wrong = facemill("run", "--input", "photos", "--output", "known", "--faces", "nowhere.parquet", folder=folder)
    assert wrong.returncode == 2
    right = facemill("run", "--input", "photos", "--output", "known", folder=folder)
    assert right.returncode == 0, right.stderr


def test_the_name_of_the_table_is_taken_as_it_is(folder: Path) -> None:
    done = facemill("run", "--input", "photos", "--output", "null-out", "--faces", "null", folder=folder)
    assert done.returncode == 2
    assert "no Parquet file of known faces at null" in done.stderr


def test_an_interrupt_is_one_whatever_error_it_ends_in(folder: Path, tmp_path: Path) -> None:
    """A library that is interrupted while it is imported says that it cannot be."""
    broken = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()\n"
    (tmp_path / "onnxruntime.py").write_text(
        f"{broken}except KeyboardInterrupt:\n    raise ImportError('not loaded')\n"
    )
    done = facemill(
        "run",
        *("--input", "photos", "--output", str(tmp_path / "out")),
        folder=folder,
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130
    assert done.stderr == "\ninterrupted; what was committed is valid, and the same command goes on from there\n"
