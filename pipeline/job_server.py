"""The Java process that takes jobs for Flink or Spark, started for one run and ended with it.

Beam's own starter is not used for more than finding the jar: it hands Ctrl-C to the Java process first, so that a job
on a cluster could not be cancelled any more, and its log goes to the terminal.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.engines import runner_key

# What Spark reaches into, closed since Java 17; its own start scripts open the same. Beam opens four of them, and
# without the others a task that fails takes its thread along, and the job never ends.
_OPENED_FOR_SPARK = (
    *("java.io", "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.nio", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic"),
    *("sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar"),
)
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.1


@contextmanager
def start_job_server(runner: str, options: Any, log: Path) -> Iterator[str]:
    """Start the job server, and yield its address when it listens.

    Args:
        runner: FlinkRunner or SparkRunner.
        options: Beam's `PipelineOptions`, which name the jar or the version, and the cluster.
        log: Where the process writes what it has to say.

    Raises:
        ConfigError: The jar or Java cannot be had.
        OutputError: The process ended, or did not listen in time.
    """
    with tempfile.TemporaryDirectory(prefix="facemill-job-server-") as folder:
        command, address = _command(runner, options, f"{folder}/artifacts")
        if _listens(address):
            raise ConfigError(f"--job_port={address.rpartition(':')[2]}: something else listens there")
        with log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which cancels the job first
                preexec_fn=_dying_with_this() if sys.platform == "linux" else None,
            )
        try:
            _wait_for(process, address, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _command(runner: str, options: Any, artifacts: str) -> tuple[list[str], str]:
    from apache_beam.options.pipeline_options import JobServerOptions
    from apache_beam.runners.portability.flink_runner import FlinkJarJobServer
    from apache_beam.runners.portability.spark_runner import SparkJarJobServer

    settings = options.view_as(JobServerOptions)
    settings.artifacts_dir = settings.artifacts_dir or artifacts
    key = runner_key(runner)
    server = (FlinkJarJobServer if key == "flink" else SparkJarJobServer)(options)
    try:
        command, address = server.subprocess_cmd_and_endpoint()
    except Exception as error:  # of the download, which may be refused in many ways
        raise ConfigError(
            f"cannot get the job server of {runner}: {error}; hand its jar over with --{key}_job_server_jar "
            "(docs/running.md, Jars without the Internet)"
        ) from error
    if shutil.which(command[0]) is None:
        raise ConfigError(f"--runner {runner} needs Java: there is no program called {command[0]}")
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED_FOR_SPARK] if key == "spark" else []
    return [command[0], *opened, *map(str, command[1:])], str(address)


def _dying_with_this() -> Callable[[], None]:
    """What a child of Linux does first, so that it gets SIGTERM when this process is killed."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG

    return prepare


def _wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OutputError(f"the job server ended at once with {process.returncode}; its log is {log}")
        if _listens(address):
            return
        time.sleep(_POLL_SECONDS)
    raise OutputError(f"the job server did not listen within {_START_SECONDS:.0f} s; its log is {log}")


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((host, int(port))) == 0
