"""What the benchmarks share: pictures, tar shards of them, and child processes whose cost is measured."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from facemill.models.errors import ConfigError
from facemill.transforms.ops.members import is_ignored

FACEMILL = (sys.executable, "-m", "facemill.pipeline.cli")


@dataclass(frozen=True)
class Cost:
    """What child processes took, with the children that they waited for."""

    cpu_s: float
    wall_s: float
    outputs: tuple[str, ...]  # the standard output of each


def existing(path: str) -> Path:
    """An argument that names a file or a folder; for `argparse`."""
    if not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{path} does not exist")
    return Path(path)


def load_pictures(folder: Path | None, *, size_wh: tuple[int, int]) -> list[bytes]:
    """The files of a folder of pictures, or made ones of `size_wh` when there is no folder."""
    if folder is None:
        return list(_made_pictures(size_wh))
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_ignored(path.name)]
    if not paths:
        raise ConfigError(f"no pictures in {folder}")
    return [path.read_bytes() for path in paths]


def _made_pictures(size_wh: tuple[int, int]) -> Iterator[bytes]:
    """48 JPEG pictures: scenes, three of four with a face in it, of other size and place each time."""
    import numpy as np
    import skimage
    from PIL import Image

    data = Path(skimage.__file__).parent / "data"
    scenes = [Image.open(data / name).convert("RGB") for name in ("coffee.png", "chelsea.png", "rocket.jpg")]
    person = Image.open(data / "astronaut.png").convert("RGB").crop((100, 0, 356, 256))
    random = np.random.default_rng(0)
    for number in range(48):
        picture = scenes[number % 3].resize(size_wh, Image.Resampling.LANCZOS)
        if number % 4:
            side_px = int(min(size_wh) * random.uniform(0.3, 0.9))
            place = tuple(int(random.integers(0, length - side_px + 1)) for length in size_wh)
            picture.paste(person.resize((side_px, side_px), Image.Resampling.LANCZOS), place)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def pack_shard(path: Path, pictures: Sequence[bytes]) -> Path:
    """Write one tar shard; the members are numbered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(pictures):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def run_command(shards: Path | str, output: Path | str, *options: str) -> list[str]:
    """The command that runs the whole pipeline."""
    return [*FACEMILL, "run", "--input", str(shards), "--output", str(output), *options]


def measure(*commands: Sequence[str]) -> Cost:
    """Run commands at once, to their end; each must succeed."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2 * len(commands))]
        streams = list(zip(files[::2], files[1::2], strict=True))
        started_at = time.perf_counter()
        children = [
            subprocess.Popen(command, stdout=out, stderr=err)
            for command, (out, err) in zip(commands, streams, strict=True)
        ]
        cpu_s = sum(_wait(child) for child in children)
        wall_s = time.perf_counter() - started_at
        for child, (out, err) in zip(children, streams, strict=True):
            out.seek(0)
            err.seek(0)
            if child.returncode:
                raise RuntimeError(f"{child.args} ended with {child.returncode}: {err.read()}")
        return Cost(cpu_s, wall_s, tuple(out.read() for out, _ in streams))


def _wait(child: subprocess.Popen[bytes]) -> float:
    """Wait for a child's end; its CPU seconds."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def peak_bytes(process: psutil.Process) -> int:
    """The resident memory's peak since the process began, or what it is now where the kernel does not keep that."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        peak_kb = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
        return int(peak_kb) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0
