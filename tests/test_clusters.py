"""The same archive through real Flink and Spark, embedded and as clusters of separate processes: the same files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import FlinkCluster, SparkCluster, children_of, engines_folder, why_no_engines
from pictures import archive, read_crops, read_table, write_tar
from servers import job_service, s3_server, worker_pool

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_no_engines()), reason=why_no_engines())]

NUM_IMAGES = 300
NUM_SHARDS = 30
MAX_MEMORY_RATIO = 1.2
TIMEOUT_S = 240
DOCUMENTATION = Path(__file__).resolve().parents[1] / "docs" / "running.md"


@dataclass
class Engine:
    """Something that runs the graph: how to ask for it, and the pids of what it runs in."""

    arguments: list[str]
    pids: Callable[[], list[int]] = list  # of the cluster; embedded engines are children of the command
    environment: dict[str, str] = field(default_factory=dict)  # for the documented command

    def start(self, shards: Path | str, output: Path | str, log: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "facemill.pipeline.cli", "run", "--input", str(shards)]
        with log.open("a") as sink:
            return subprocess.Popen(
                [*command, "--output", str(output), "--workers", "2", *self.arguments],
                stdout=sink,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=heed_interrupts,
            )

    def workers_of(self, process: subprocess.Popen[str]) -> list[psutil.Process]:
        """The processes that run the graph for a command."""
        found = [child for pid in (process.pid, *self.pids()) for child in children_of(pid, "facemill-worker")]
        return found or children_of(process.pid, "spawn_main")  # the local mode's


def heed_interrupts() -> None:
    """A process started in the background of a shell ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], log: Path) -> int:
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it hangs: {log.read_text()[-2000:]}")
    assert "Traceback" not in log.read_text()
    return process.returncode


def assert_same(output: Path, expected: Path) -> None:
    assert read_table(output, "images") == read_table(expected, "images")
    assert read_table(output, "faces") == read_table(expected, "faces")
    assert read_crops(output) == read_crops(expected)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "shards"
    files = archive(NUM_IMAGES)
    names = sorted(files)
    for number in range(NUM_SHARDS):
        write_tar(folder / f"{number:02d}.tar", {name: files[name] for name in names[number::NUM_SHARDS]})
    return folder


LOCAL = Engine([])


@pytest.fixture
def one_machine() -> Engine:
    return LOCAL


@dataclass
class Outcome:
    """An output folder and the peak memory of each process that worked on it, in bytes."""

    output: Path
    peaks: list[int]


def run_watched(process: subprocess.Popen[str], engine: Engine, output: Path, log: Path) -> Outcome:
    """Wait for the end of a run that must succeed, and look at its workers meanwhile."""
    peaks: dict[int, int] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        for worker in engine.workers_of(process):
            with contextlib.suppress(OSError):  # it ended meanwhile
                peaks[worker.pid] = peak_bytes(worker.pid)
        time.sleep(0.2)
    assert finish(process, log) == 0, log.read_text()
    return Outcome(output, list(peaks.values()))


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


@pytest.fixture(scope="module")
def local(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("local")
    process = LOCAL.start(shards, folder / "out", folder / "log.txt")
    outcome = run_watched(process, LOCAL, folder / "out", folder / "log.txt")
    assert len(read_table(outcome.output, "images")) == NUM_IMAGES + 3
    return outcome


@pytest.fixture(scope="module")
def engines() -> Path:
    folder = engines_folder()
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def embedded_flink(engines: Path) -> Engine:
    return Engine(["--runner", "FlinkRunner", f"--flink_job_server_jar={engines / 'flink-job-server.jar'}"])


@pytest.fixture(scope="module")
def local_spark(engines: Path) -> Engine:
    return Engine(["--runner", "SparkRunner", f"--spark_job_server_jar={engines / 'spark-job-server.jar'}"])


@pytest.fixture(scope="module")
def flink_cluster(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with FlinkCluster(engines, tmp_path_factory.mktemp("flink"), num_task_managers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def flink(flink_cluster: FlinkCluster, embedded_flink: Engine) -> Engine:
    def pids() -> list[int]:
        return [manager.pid for manager in flink_cluster.task_managers]

    arguments = [*embedded_flink.arguments, f"--flink_master={flink_cluster.url}"]
    return Engine(arguments, pids, {"FLINK": flink_cluster.url})


@pytest.fixture(scope="module")
def spark_cluster(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with SparkCluster(engines, tmp_path_factory.mktemp("spark"), num_workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spark(spark_cluster: SparkCluster) -> Engine:
    return Engine(
        [*spark_cluster.beam_arguments(), "--sdk_worker_parallelism=1"],
        lambda: [worker.pid for worker in spark_cluster.workers],
        {"SPARK": spark_cluster.url},
    )


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Beam's own job service, and a pool of workers."""
    worker = Path(sys.executable).with_name("facemill-worker")
    with job_service() as (endpoint, service), worker_pool(str(worker)) as (pool_address, pool):
        environment = {"JOB_SERVICE": endpoint, "WORKER_POOL": pool_address}
        yield Engine([], lambda: [service.pid, pool.pid], environment)


def documented_command(name: str) -> str:
    found = re.search(rf"<!-- run: {name} -->\n```sh\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["one_machine", "embedded_flink", "flink", "local_spark", "spark", "portable"])
def test_the_documented_command_gives_the_same_as_the_local_mode_in_as_much_memory(
    name: str, request: pytest.FixtureRequest, shards: Path, local: Outcome, tmp_path: Path
) -> None:
    engine: Engine = request.getfixturevalue(name)
    (tmp_path / "shards").symlink_to(shards)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = tmp_path / "log.txt"
    with log.open("w") as sink:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {documented_command(name)}"],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, **engine.environment},
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    outcome = run_watched(process, engine, tmp_path / "out", log)
    assert_same(outcome.output, local.output)
    assert outcome.peaks
    assert max(outcome.peaks) < MAX_MEMORY_RATIO * max(local.peaks)


def test_flink_does_everything_from_reading_to_committing_in_one_task(
    flink_cluster: FlinkCluster, flink: Engine, shards: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    assert finish(flink.start(shards, tmp_path / "out", log), log) == 0, log.read_text()
    jobs = read_json(f"{flink_cluster.url}/jobs/overview")["jobs"]
    latest = max(jobs, key=lambda job: job["start-time"])
    plan = read_json(f"{flink_cluster.url}/jobs/{latest['jid']}/plan")["plan"]
    tasks = [node["description"] for node in plan["nodes"]]
    assert len([task for task in tasks if "Read, Decode, Detect, Landmarks, Judge, Align, Write" in task]) == 1, tasks


def read_json(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures often enough that there is time to kill something."""
    folder = tmp_path_factory.mktemp("many")
    files = archive(NUM_IMAGES)
    names = sorted(files)
    for number in range(NUM_SHARDS):
        write_tar(
            folder / f"{number:02d}.tar",
            {f"{copy}/{name}": files[name] for copy in range(3) for name in names[number::NUM_SHARDS]},
        )
    return folder


@pytest.fixture(scope="module")
def undisturbed(many_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert finish(LOCAL.start(many_shards, output, output.parent / "log.txt"), output.parent / "log.txt") == 0
    return output


def kill_worker(engine: Engine, process: subprocess.Popen[str], _: object) -> None:
    busiest = max(engine.workers_of(process), key=lambda worker: sum(worker.cpu_times()[:2]))
    busiest.kill()


def kill_task_manager(engine: Engine, process: subprocess.Popen[str], cluster: FlinkCluster) -> None:
    kill_group(next(manager for manager in cluster.task_managers if manager.poll() is None))
    cluster.add_task_manager()


def kill_executor(engine: Engine, process: subprocess.Popen[str], cluster: SparkCluster) -> None:
    cluster.executors()[0].kill()


def kill_spark_worker(engine: Engine, process: subprocess.Popen[str], cluster: SparkCluster) -> None:
    kill_group(next(worker for worker in cluster.workers if worker.poll() is None))
    cluster.add_worker()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """As when a machine dies: the process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


KILLS = {
    "a worker in embedded Flink": ("embedded_flink", None, kill_worker),
    "a worker in embedded Flink again": ("embedded_flink", None, kill_worker),
    "a worker in local Spark": ("local_spark", None, kill_worker),
    "a worker of a Flink cluster": ("flink", "flink_cluster", kill_worker),
    "a worker of a Flink cluster again": ("flink", "flink_cluster", kill_worker),
    "a Flink task manager": ("flink", "flink_cluster", kill_task_manager),
    "a Flink task manager again": ("flink", "flink_cluster", kill_task_manager),
    "a worker of a Spark cluster": ("spark", "spark_cluster", kill_worker),
    "a Spark executor": ("spark", "spark_cluster", kill_executor),
    "a Spark worker": ("spark", "spark_cluster", kill_spark_worker),
}


@pytest.mark.parametrize("kill", KILLS)
def test_what_is_killed_in_the_middle_is_made_whole(
    kill: str, request: pytest.FixtureRequest, many_shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    name, cluster_name, strike = KILLS[kill]
    engine: Engine = request.getfixturevalue(name)
    cluster = request.getfixturevalue(cluster_name) if cluster_name else None
    output, log = tmp_path / "out", tmp_path / "log.txt"
    process = engine.start(many_shards, output, log)
    wait_for_units(process, output, 2 + list(KILLS).index(kill), log)
    strike(engine, process, cluster)
    assert len(list((output / "_units").glob("*.json"))) < NUM_SHARDS  # it was in the middle
    first = finish(process, log)
    assert first in (0, 1), log.read_text()
    if first:
        assert re.search(r"^facemill: the job failed on \w+: .*; its log is .*\.log;", log.read_text(), re.MULTILINE)
        assert finish(engine.start(many_shards, output, log), log) == 0, log.read_text()
    assert_same(output, undisturbed)


def wait_for_units(process: subprocess.Popen[str], output: Path, count: int, log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(list((output / "_units").glob("*.json"))) < count:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["embedded_flink", "flink"])
def test_an_interrupt_ends_the_job_as_well(
    name: str, request: pytest.FixtureRequest, many_shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    engine: Engine = request.getfixturevalue(name)
    output, log = tmp_path / "out", tmp_path / "log.txt"
    process = engine.start(many_shards, output, log)
    wait_for_units(process, output, 3, log)
    process.send_signal(signal.SIGINT)
    assert finish(process, log) == 130
    wait_for_the_end_of_workers(engine)
    assert len(list((output / "_units").iterdir())) < NUM_SHARDS
    assert finish(engine.start(many_shards, output, log), log) == 0
    assert_same(output, undisturbed)


@pytest.fixture
def s3() -> Iterator[dict[str, object]]:
    """How to reach an S3 server of our own on the loopback."""
    pytest.importorskip("s3fs", reason="needs s3fs")
    pytest.importorskip("moto", reason="needs moto's S3 server")
    with s3_server() as address:
        yield {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": address}}


def wait_for_the_end_of_workers(engine: Engine) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while any(children_of(pid, "facemill-worker") for pid in engine.pids()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_flink_reads_from_and_writes_to_an_object_store(
    flink: Engine, s3: dict[str, object], shards: Path, local: Outcome, tmp_path: Path
) -> None:
    import s3fs

    store = s3fs.S3FileSystem(**s3)
    store.mkdir("bucket")
    store.put(str(shards), f"bucket/{shards.name}", recursive=True)
    log = tmp_path / "log.txt"
    engine = Engine([*flink.arguments, "--storage-options", json.dumps({"s3": s3})], flink.pids)
    process = engine.start(f"s3://bucket/{shards.name}", "s3://bucket/out", log)
    wait_for_objects(process, store, log)
    engine.workers_of(process)[0].kill()
    if finish(process, log):
        assert finish(engine.start(f"s3://bucket/{shards.name}", "s3://bucket/out", log), log) == 0, log.read_text()
    store.get("bucket/out", str(tmp_path / "out"), recursive=True)
    assert_same(tmp_path / "out", local.output)


def wait_for_objects(process: subprocess.Popen[str], store: Any, log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        assert time.monotonic() < deadline
        store.invalidate_cache()
        if store.exists("bucket/out/_units") and len(store.ls("bucket/out/_units")) > 2:
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)


def test_an_unknown_option_is_refused_before_any_image_is_read(
    embedded_flink: Engine, shards: Path, tmp_path: Path
) -> None:
    engine = Engine([*embedded_flink.arguments, "--paralelism=3"])
    log = tmp_path / "log.txt"
    assert finish(engine.start(shards, tmp_path / "out", log), log) == 2
    assert "knows --paralelism=3; did you mean --parallelism?" in log.read_text()
    assert not list((tmp_path / "out").glob("_units/*"))


def test_a_full_output_is_told_in_one_line(embedded_flink: Engine, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "faces").write_bytes(b"")  # a file where the run needs a folder
    log = tmp_path / "log.txt"
    assert finish(embedded_flink.start(shards, tmp_path / "out", log), log) == 1
    assert re.search(r"facemill: cannot write .*/faces/.*: File exists", log.read_text())
