"""Servers in the background, on free ports of the loopback, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_START_SECONDS = 60
_POLL_SECONDS = 0.05


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(module: str, *arguments: str, port: int, log: Path = Path(os.devnull)) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of this Python until the end of the block, which begins when it listens on `port`.

    Raises:
        TimeoutError: It does not.
    """
    with running_command([sys.executable, "-m", module, *arguments], port=port, log=log) as process:
        yield process


@contextlib.contextmanager
def running_command(
    command: Sequence[str], *, port: int, log: Path = Path(os.devnull)
) -> Iterator[subprocess.Popen[bytes]]:
    """As `running`, of any program."""
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        _wait_for(port)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def s3_server(log: Path = Path(os.devnull)) -> Iterator[str]:
    """The address of an S3 server, moto's, which writes a line for each request to `log`."""
    port = free_port()
    with running("moto.server", "-H", "127.0.0.1", "-p", str(port), port=port, log=log):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def job_service() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Beam's own job service: its address and its process."""
    port = free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    with running(module, f"--port={port}", port=port) as process:
        yield f"localhost:{port}", process


@contextlib.contextmanager
def worker_pool(worker: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A pool that starts `worker` for each one that an engine asks for: its address and its process."""
    port = free_port()
    module = "apache_beam.runners.worker.worker_pool_main"
    arguments = (f"--service_port={port}", f"--container_executable={worker}")
    with running(module, *arguments, port=port) as process:
        yield f"localhost:{port}", process


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"nothing listens on port {port}")
