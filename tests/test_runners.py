"""The same graph on Beam's own runners gives the same tables and crops as the local mode."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest
from pictures import archive, read_crops, read_table, write_tar
from servers import job_service

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.storage import Folder
from facemill.transforms.write import WriteUnit

FILES = archive(12)
RUNNERS = {
    "in memory": ("FnApiRunner", ["--direct_running_mode=in_memory"]),
    "threads": ("FnApiRunner", ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]),
    "processes": ("FnApiRunner", ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]),
    "DirectRunner": ("DirectRunner", []),
    "bundles": ("BundleBasedDirectRunner", []),
}


def start(folder: Path, output: Path, **options: object) -> None:
    request = RunRequest(inputs=[str(folder)], output=Folder(str(output)), config=load_config(), **options)
    assert run(request, out=io.StringIO(), err=io.StringIO()).is_complete


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    names = sorted(FILES)
    for number in range(3):
        write_tar(folder / f"{number}.tar", {name: FILES[name] for name in names[number::3]})
    return folder


@pytest.fixture(scope="module")
def expected(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("expected") / "out"
    start(shards, output)
    assert len(read_table(output, "images")) == len(FILES)
    return output


def assert_same(output: Path, expected: Path) -> None:
    assert read_table(output, "images") == read_table(expected, "images")
    assert read_table(output, "faces") == read_table(expected, "faces")
    assert read_crops(output) == read_crops(expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_gives_the_same(name: str, shards: Path, expected: Path, tmp_path: Path) -> None:
    runner, arguments = RUNNERS[name]
    start(shards, tmp_path / "out", runner=runner, beam_arguments=arguments)
    assert_same(tmp_path / "out", expected)


def test_portable_runner_gives_the_same(shards: Path, expected: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "run", "--input", str(shards)]
    command += ["--output", str(tmp_path / "out"), "--runner", "PortableRunner"]
    with job_service() as (endpoint, _):
        command += [f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK"]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert finished.returncode == 0, finished.stderr
    assert_same(tmp_path / "out", expected)


def test_a_runner_that_loses_outputs_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DaskRunner loses outputs"):
        start(shards, tmp_path / "out", runner="DaskRunner")


def test_an_unknown_runner_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Beam does not take --runner NoSuchRunner"):
        start(shards, tmp_path / "out", runner="NoSuchRunner")


def test_a_job_service_that_does_not_answer_is_one_clear_error(shards: Path, tmp_path: Path) -> None:
    arguments = ["--job_endpoint=localhost:1", "--job_server_timeout=1"]
    with pytest.raises(OutputError, match="no job service answers at localhost:1"):
        start(shards, tmp_path / "out", runner="PortableRunner", beam_arguments=arguments)


def test_a_failing_job_says_why(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "faces").write_bytes(b"")  # a file where the run needs a folder
    with pytest.raises(OutputError, match=r"cannot write .*/faces/.*: File exists; its log is "):
        start(shards, tmp_path / "out", runner="FnApiRunner", beam_arguments=["--direct_running_mode=in_memory"])


SAME_UNITS_AGAIN = """
import sys
from facemill.pipeline.config import load_config
from facemill.pipeline.job import Job
from facemill.pipeline.plan import read_plan
from facemill.pipeline.remote import run_remote
from facemill.transforms.ops.storage import Folder

shards, output = Folder(f"file://{sys.argv[1]}"), Folder(sys.argv[2])
job = Job(load_config(), {sys.argv[3]: shards}, output)
sys.stdin.readline()
run_remote(job, frozenset(read_plan(output).names), runner="FnApiRunner", arguments=[], err=sys.stderr)
"""


def test_attempts_at_the_same_units_at_the_same_time_are_harmless(shards: Path, expected: Path, tmp_path: Path) -> None:
    """As engines do with what they take for slow or lost."""
    output = tmp_path / "out"
    start(shards, output)
    for folder in ("_units", "images", "faces", "crops"):
        for file in (output / folder).iterdir():
            file.unlink()
    command = [sys.executable, "-c", SAME_UNITS_AGAIN, str(shards), str(output), shards.name]
    attempts = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for attempt in attempts:
        assert attempt.stdin is not None
        attempt.stdin.write("go\n")
        attempt.stdin.flush()
    errors = [attempt.communicate(timeout=120)[1] for attempt in attempts]
    assert [attempt.returncode for attempt in attempts] == [0, 0, 0], errors
    assert_same(output, expected)
    assert not list(output.rglob("*.tmp"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_a_runner_that_moves_images_between_workers_commits_nothing_wrong(
    mode: str, shards: Path, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facemill.pipeline.graph.WriteUnit", lambda *arguments: _Shuffled(WriteUnit(*arguments)))
    arguments = [f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    request = RunRequest([str(shards)], Folder(str(tmp_path / "out")), load_config(), runner="FnApiRunner")
    with pytest.raises(OutputError, match=r"cut units apart|does not balance|images arrived"):
        run(replace(request, beam_arguments=arguments), out=io.StringIO(), err=io.StringIO())
    assert not list((tmp_path / "out").glob("_units/*.json"))
    start(shards, tmp_path / "out")
    assert_same(tmp_path / "out", expected)


class _Shuffled(beam.PTransform):
    """A transform behind a shuffle, as in a graph that an engine did not fuse."""

    def __init__(self, transform: beam.PTransform) -> None:
        super().__init__()
        self._transform = transform

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.Reshuffle() | self._transform
