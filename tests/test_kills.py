"""Thirty kills at random moments: whatever is interrupted, a second run makes it whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pictures import archive, read_crops, read_table, write_tar

NUM_KILLS_EACH = 10
FILES = archive(150)
NUM_SHARDS = 20


def heed_interrupts() -> None:
    """A process started in the background of a shell ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(shards: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "run", "--input", str(shards), "--output", str(output)]
    return subprocess.Popen(
        [*command, "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def finish(process: subprocess.Popen[str]) -> int:
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return process.returncode


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    names = sorted(FILES)
    for number in range(NUM_SHARDS):
        write_tar(folder / f"{number:02d}.tar", {name: FILES[name] for name in names[number::NUM_SHARDS]})
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder that nobody disturbed."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert finish(start(shards, output)) == 0
    assert len(read_table(output, "images")) == len(FILES)
    return output


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes, without the interpreter's own resource tracker."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def kill(process: subprocess.Popen[str], victim: str, dice: random.Random) -> None:
    if victim == "worker":
        workers = workers_of(process)
        if workers:
            dice.choice(workers).kill()
    elif victim == "parent":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)


def markers(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in output.glob("_units/[!.]*.json")}


def wait_for_moment(process: subprocess.Popen[str], output: Path, dice: random.Random) -> None:
    """Somewhere between the start and the last commit but one, evenly over the commits, at any point between two."""
    num_commits = dice.randrange(NUM_SHARDS - 2)
    deadline = time.monotonic() + 60
    while num_commits and len(markers(output)) < num_commits and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.1) if num_commits else dice.uniform(0.2, 1.5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_KILLS_EACH))
@pytest.mark.parametrize("victim", ["worker", "parent", "interrupt"])
def test_a_kill_and_a_second_run(victim: str, seed: int, shards: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    dice = random.Random(f"{victim} {seed}")
    process = start(shards, output)
    wait_for_moment(process, output, dice)
    assert process.poll() is None, "the run ended before it could be killed"
    left = [*workers_of(process), psutil.Process(process.pid)]
    kill(process, victim, dice)
    code = finish(process)
    committed = markers(output)
    assert code == {"worker": 0, "parent": -signal.SIGKILL, "interrupt": 130}[victim]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive, "a worker outlived its parent"
    assert finish(start(shards, output)) == 0
    after = markers(output)
    assert {name: after[name] for name in committed} == committed, "a committed unit was done again"
    assert len(after) == NUM_SHARDS
    assert not [path for path in output.rglob(".*") if path.name.endswith(".tmp")]
    for table in ("images", "faces"):
        assert read_table(output, table) == read_table(undisturbed, table)
    assert read_crops(output) == read_crops(undisturbed)
