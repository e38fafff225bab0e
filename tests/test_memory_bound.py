"""The memory of a worker is bounded by pixels in flight: on 24-megapixel photographs, few or many, with each policy."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import astronaut, jpeg, read_table
from PIL import Image
from workload import peak_bytes

from facemill.transforms.ops.options import RunOptions

PHOTOGRAPH_WH = (6000, 4000)
# Of each pixel in flight, at its full size: its colour, the halves, and the largest level that is made from it.
BYTES_PER_PIXEL = {"full": 5, "reduced": 1.5}
MAX_GROWTH_BYTES = 24e6


def photograph() -> bytes:
    """24 megapixels, the face about 900 px wide, as a camera would store it: about 0.2 bytes a pixel."""
    image = Image.fromarray(astronaut()[:340]).resize(PHOTOGRAPH_WH, Image.Resampling.BICUBIC)
    pixels = np.asarray(image).astype(np.int16)
    noise = np.random.default_rng(0).integers(-6, 7, (500, 500, 1), dtype=np.int16)
    pixels += np.tile(noise, (8, 12, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def peak_of_worker(folder: Path, output: Path, *settings: str) -> int:
    """Run facemill with one worker; the most bytes that any of its processes held at a time."""
    arguments = ["run", "--input", str(folder), "--output", str(output), "--workers", "1"]
    command = [sys.executable, "-m", "facemill.pipeline.cli", *arguments, *(f"--set={each}" for each in settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        watched, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            peak = max([peak, *map(peak_bytes, watched.children(recursive=True))])
            time.sleep(0.02)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return peak


def write(folder: Path, data: bytes, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02d}.jpg").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders by the number of their photographs."""
    root, data = tmp_path_factory.mktemp("photographs"), photograph()
    return {count: write(root / str(count), data, count) for count in (4, 12)}


@pytest.fixture(scope="module")
def small_peak(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What a worker needs for a picture that is next to nothing."""
    root = tmp_path_factory.mktemp("small")
    return peak_of_worker(write(root / "in", jpeg(astronaut()), 2), root / "out")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", "reduced"])
def test_memory_is_bounded_by_pixels_in_flight(
    policy: str, photographs: dict[int, Path], small_peak: int, tmp_path: Path
) -> None:
    settings = (f"decode.policy={policy}", "detect.min_face_share=0.05")
    peaks = {count: peak_of_worker(folder, tmp_path / str(count), *settings) for count, folder in photographs.items()}
    for count in photographs:
        assert [row["num_kept"] for row in read_table(tmp_path / str(count), "images")] == [1] * count
    pixels_in_flight = PHOTOGRAPH_WH[0] * PHOTOGRAPH_WH[1] + RunOptions().batch_pixels
    sys.stderr.write(f"{policy}: {small_peak / 1e6:.0f} MB for small pictures, {peaks}\n")
    assert max(peaks.values()) - small_peak < BYTES_PER_PIXEL[policy] * pixels_in_flight
    assert peaks[12] - peaks[4] < MAX_GROWTH_BYTES
