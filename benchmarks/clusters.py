"""Real Flink and Spark clusters of separate processes on the loopback, for tests and benchmarks.

`engines/fetch DIR` brings what they need; the environment variable FACEMILL_ENGINES names DIR.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from typing_extensions import Self

ENGINES_VARIABLE = "FACEMILL_ENGINES"
_FLINK_JAR, _SPARK_JAR = "flink-job-server.jar", "spark-job-server.jar"
_HOST = "localhost"
_START_SECONDS = 90
_POLL_SECONDS = 0.1
# The work of these processes is small: a fast start and a small memory count for more than the best machine code.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_OPENED_PACKAGES = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.util.concurrent.locks",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.security.action",
    "java.base/sun.util.calendar",
)


def engines_folder() -> Path | None:
    """The folder that `engines/fetch` made, or None if the environment names none."""
    name = os.environ.get(ENGINES_VARIABLE)
    return Path(name) if name else None


def why_no_engines() -> str:
    """Why no engine can be started here, as the reason of a skipped test; empty if all is there."""
    folder = engines_folder()
    if folder is None:
        return f"needs Flink and Spark: run benchmarks/engines/fetch DIR and set {ENGINES_VARIABLE}=DIR"
    if shutil.which("java") is None:
        return "needs Java to run Flink and Spark"
    for name in (_FLINK_JAR, _SPARK_JAR, "flink/lib", "spark/jars"):
        if not (folder / name).exists():
            return f"needs {folder / name}: run benchmarks/engines/fetch {folder}"
    return ""


def children_of(pid: int, text: str = "") -> list[psutil.Process]:
    """The living children of a process, and theirs, whose command line holds `text`; none if it is gone."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if text in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
    return found


class _Cluster:
    """Processes that are started one by one and end together, with all that they have started."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder.resolve()
        self.work = work.resolve()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill every process of the cluster, and what it has started."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):  # none of its group is left
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def _start(self) -> None:
        raise NotImplementedError

    def _java(
        self, name: str, class_path: Sequence[Path], heap_mb: int, *arguments: str, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a Java process in a group of its own, by which its children are found even when it is dead."""
        temporary = self.work / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        command = [*_dying_with_us(), "java", *_JVM, f"-Xmx{heap_mb}m", f"-Djava.io.tmpdir={temporary}", *_opened()]
        command += ["-cp", os.pathsep.join(map(str, class_path)), *arguments]
        log = self.work / f"{name}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=self.work,
                start_new_session=True,
            )
        self._processes.append(process)
        self._logs[process.pid] = log
        return process

    def _await(self, address: str, key: str, count: int, needed: Sequence[subprocess.Popen[bytes]]) -> None:
        """Wait until the JSON at an address says that there are `count` of something."""
        deadline = time.monotonic() + _START_SECONDS
        while _read_json(address).get(key, -1) < count:
            for process in needed:
                if process.poll() is not None:
                    raise RuntimeError(f"ended with {process.returncode} at the start: {self._end_of_log(process)}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {count} {key} within {_START_SECONDS} s; the logs are in {self.work}")
            time.sleep(_POLL_SECONDS)

    def _end_of_log(self, process: subprocess.Popen[bytes]) -> str:
        log = self._logs[process.pid]
        return f"{log}: {log.read_text(errors='replace')[-2000:]}"


class FlinkCluster(_Cluster):
    """A Flink cluster: a JobManager and TaskManagers.

    A task manager that dies is noticed within seconds. A job then starts again, at most three times, and each time
    waits half a minute for slots: where none is free, it needs `add_task_manager`.

    Attributes:
        url: The address of the JobManager, as `--flink_master` takes it.
        job_manager: The JobManager's process.
        task_managers: The TaskManagers' processes, dead ones included.
    """

    url: str
    job_manager: subprocess.Popen[bytes]
    task_managers: list[subprocess.Popen[bytes]]

    def __init__(self, folder: Path, work: Path, num_task_managers: int = 2, slots: int = 1) -> None:
        """Take the engines' folder, a folder for logs and settings, and the number of slots of each TaskManager."""
        super().__init__(folder, work)
        self.num_task_managers = num_task_managers
        self.slots = slots
        self.task_managers = []

    @property
    def parallelism(self) -> int:
        """The slots that the cluster was started with."""
        return self.num_task_managers * self.slots

    def add_task_manager(self) -> subprocess.Popen[bytes]:
        """Start one more TaskManager; it offers its slots some seconds later."""
        entry = ["org.apache.flink.runtime.taskexecutor.TaskManagerRunner", "--configDir", str(self._configuration)]
        process = self._run_flink(f"task-manager-{len(self.task_managers)}", 384, *entry)
        self.task_managers.append(process)
        return process

    def wait_for_slots(self, count: int) -> None:
        """Wait until as many slots are registered."""
        living = [process for process in self.task_managers if process.poll() is None]
        self._await(f"{self.url}/overview", "slots-total", count, [self.job_manager, *living])

    @property
    def _configuration(self) -> Path:
        return self.work / "conf"

    def _start(self) -> None:
        rpc_port, rest_port = _free_ports(2)
        self.url = f"http://{_HOST}:{rest_port}"
        self._configuration.mkdir(parents=True, exist_ok=True)
        settings = _flink_settings(rpc_port, rest_port, self.slots, self.parallelism, self.work / "tmp")
        lines = [f"{key}: {value}" for key, value in settings.items()]
        (self._configuration / "config.yaml").write_text("\n".join(lines) + "\n")
        (self._configuration / "log4j.properties").write_text(_LOG4J)
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        arguments = [entry, "--configDir", str(self._configuration), "--executionMode", "cluster"]
        self.job_manager = self._run_flink("job-manager", 384, *arguments)
        for _ in range(self.num_task_managers):
            self.add_task_manager()
        self.wait_for_slots(self.parallelism)

    def _run_flink(self, name: str, heap_mb: int, *arguments: str) -> subprocess.Popen[bytes]:
        logging = f"-Dlog4j2.configurationFile={self._configuration / 'log4j.properties'}"
        limits = ["-XX:MaxMetaspaceSize=512m", "-XX:MaxDirectMemorySize=320m"]
        jars = [self.folder / "flink" / "lib" / "*"]
        return self._java(name, jars, heap_mb, logging, *limits, *arguments, environment={})


class SparkCluster(_Cluster):
    """A standalone Spark cluster: a master and workers, which start an executor each for a job.

    Attributes:
        url: The address of the master, as `--spark_master_url` takes it.
        master: The master's process.
        workers: The workers' processes, dead ones included.
    """

    url: str
    master: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]

    def __init__(self, folder: Path, work: Path, num_workers: int = 2, cores: int = 1) -> None:
        """Take the engines' folder, a folder for logs and settings, and the number of cores of each worker."""
        super().__init__(folder, work)
        self.num_workers = num_workers
        self.cores = cores
        self.workers = []

    def beam_arguments(self) -> list[str]:
        """What `facemill run` takes to run here, but for the environment of the workers."""
        return _spark_arguments(self.folder, self.url)

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker; a running job gets an executor on it some seconds later."""
        number = len(self.workers)
        entry = "org.apache.spark.deploy.worker.Worker"
        resources = ["--cores", str(self.cores), "--memory", "1g", "--work-dir", str(self.work / f"worker-{number}")]
        # An executor keeps a copy of the job server's jar, which is of no use after its job.
        cleaning = ["-Dspark.worker.cleanup.enabled=true", "-Dspark.worker.cleanup.interval=30"]
        cleaning += ["-Dspark.worker.cleanup.appDataTtl=30"]
        ports = ["--host", _HOST, "--port", "0", "--webui-port", str(*_free_ports(1))]
        process = self._run_spark(f"worker-{number}", *cleaning, entry, *ports, *resources, self.url)
        self.workers.append(process)
        return process

    def executors(self) -> list[psutil.Process]:
        """The living executors, which run the tasks of a job; a worker starts another for one that died."""
        backends = (children_of(worker.pid, "CoarseGrainedExecutorBackend") for worker in self.workers)
        return [executor for found in backends for executor in found]

    def wait_for_workers(self, count: int) -> None:
        """Wait until as many workers are registered."""
        living = [process for process in self.workers if process.poll() is None]
        self._await(f"{self._web_url}/json/", "aliveworkers", count, [self.master, *living])

    def _start(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        port, web_port = _free_ports(2)
        self.url, self._web_url = f"spark://{_HOST}:{port}", f"http://{_HOST}:{web_port}"
        entry = "org.apache.spark.deploy.master.Master"
        ports = ["--host", _HOST, "--port", str(port), "--webui-port", str(web_port)]
        self.master = self._run_spark("master", entry, *ports)
        self._await(f"{self._web_url}/json/", "aliveworkers", 0, [self.master])
        for _ in range(self.num_workers):
            self.add_worker()
        self.wait_for_workers(self.num_workers)

    def _run_spark(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        home = self.folder / "spark"
        environment = {
            "SPARK_HOME": str(home),
            "SPARK_CONF_DIR": str(self.work),
            "SPARK_LOCAL_DIRS": str(self.work / "tmp"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SCALA_VERSION": "2.12",  # else it is looked for in the folders of a build
        }
        return self._java(name, [home / "jars" / "*"], 256, *arguments, environment=environment)


def _spark_arguments(folder: Path, master: str) -> list[str]:
    settings = {
        "spark.driver.host": _HOST,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.executor.memory": "512m",
        "spark.executor.extraJavaOptions": " ".join(_JVM),  # Spark adds the opened packages by itself
    }
    options = [*_JVM, "-Xmx768m", *(f"-D{key}={value}" for key, value in settings.items())]
    return [
        "--runner=SparkRunner",
        f"--spark_job_server_jar={folder / _SPARK_JAR}",
        f"--spark_master_url={master}",
        *(f"--job_server_jvm_properties={option}" for option in options),
    ]


def _dying_with_us() -> list[str]:
    """A prefix by which a process ends with this one, even if this one is killed; empty where that cannot be had."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _opened() -> list[str]:
    """What both engines take by reflection; Java has closed it since version 17."""
    return [f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED_PACKAGES]


def _flink_settings(rpc_port: int, rest_port: int, slots: int, parallelism: int, temporary: Path) -> dict[str, Any]:
    return {
        "jobmanager.rpc.address": _HOST,
        "jobmanager.rpc.port": rpc_port,
        "jobmanager.bind-host": _HOST,
        "rest.address": _HOST,
        "rest.bind-address": _HOST,
        "rest.port": rest_port,
        "taskmanager.host": _HOST,
        "taskmanager.bind-host": _HOST,
        "taskmanager.numberOfTaskSlots": slots,
        "parallelism.default": parallelism,
        "taskmanager.cpu.cores": float(slots),
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.task.heap.size": "256m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.task.off-heap.size": "128m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.managed.size": "32m",
        "taskmanager.memory.jvm-metaspace.size": "512m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "cluster.registration.error-delay": 500,  # the default of 10 s is spent when a TaskManager is up first
        "heartbeat.interval": 2000,
        "heartbeat.timeout": 30_000,
        "slot.request.timeout": 30_000,
        "io.tmp.dirs": str(temporary),
    }


_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((_HOST, 0))
        return [probe.getsockname()[1] for probe in sockets]


def _read_json(address: str) -> dict[str, Any]:
    """The answer of a server; empty while there is none."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return dict(json.load(answer))
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
        return {}
