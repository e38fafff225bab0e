"""What each Beam runner adds to a run, beside the local mode: at the start, for each unit and for each image.

    python benchmarks/runners.py [--images FOLDER] [--rounds N] [--only NAME ...]

Three archives of the same pictures are run with two workers by every runner, in turns: few units, more units with as
many images, and as many units with more images. The differences of their wall times, times two workers, are what a
unit and an image take (twice what it takes where there is one worker); the rest is the start. Flink and Spark need the
folder that `engines/fetch` makes; the variable FACEMILL_ENGINES names it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from clusters import FlinkCluster, SparkCluster, children_of, engines_folder, why_no_engines
from servers import job_service, worker_pool
from tqdm import tqdm
from workload import existing, load_pictures, pack_shard, peak_bytes, run_command

NUM_WORKERS = 2
FEW, MORE_UNITS, MORE_IMAGES = (20, 20), (400, 1), (20, 80)  # units, images in each
PICTURE_WH = (250, 250)
_MB = 1e6


@dataclass(frozen=True)
class Engine:
    """A way to run the graph: the command's options, and the processes of a cluster that is there already."""

    options: Sequence[str]
    pids: Sequence[int] = ()


@dataclass(frozen=True)
class Figures:
    """What a runner takes: seconds to start, worker seconds for each unit and image, the largest worker in bytes."""

    start_s: float
    unit_s: float
    image_s: float
    peak: int


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Measure what each Beam runner adds to a run.")
    parser.add_argument("--images", type=existing, metavar="FOLDER", help="pictures (default: made of scikit-image's)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="runners, by the beginning of their names")
    arguments = parser.parse_args()
    pictures = load_pictures(arguments.images, size_wh=PICTURE_WH)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        archives = [_pack(work, pictures, *shape) for shape in (FEW, MORE_UNITS, MORE_IMAGES)]
        engines = stack.enter_context(_engines(work))
        chosen = {
            name: engine
            for name, engine in engines.items()
            if not arguments.only or name == "local mode" or name.startswith(tuple(arguments.only))
        }
        _report(dict(_measure(chosen, archives, work, arguments.rounds)))


def _pack(work: Path, pictures: Sequence[bytes], num_units: int, num_images: int) -> Path:
    folder = work / f"{num_units}x{num_images}"
    for number in range(num_units):
        first = number * num_images
        pack_shard(
            folder / f"{number:04d}.tar", [pictures[i % len(pictures)] for i in range(first, first + num_images)]
        )
    return folder


@contextlib.contextmanager
def _engines(work: Path) -> Iterator[dict[str, Engine]]:
    with contextlib.ExitStack() as stack:
        found = {"local mode": Engine([]), "PortableRunner, one worker": stack.enter_context(_job_service())}
        folder = engines_folder()
        if folder is None or why_no_engines():
            sys.stderr.write(f"without Flink and Spark: {why_no_engines()}\n")
            yield found
            return
        flink = ["--runner", "FlinkRunner", f"--flink_job_server_jar={folder / 'flink-job-server.jar'}"]
        spark = ["--runner", "SparkRunner", f"--spark_job_server_jar={folder / 'spark-job-server.jar'}"]
        of_flink = stack.enter_context(FlinkCluster(folder, work / "flink", num_task_managers=NUM_WORKERS))
        of_spark = stack.enter_context(SparkCluster(folder, work / "spark", num_workers=NUM_WORKERS))
        yield found | {
            "FlinkRunner, embedded": Engine(flink),
            "FlinkRunner, cluster of two": Engine(
                [*flink, f"--flink_master={of_flink.url}"], [process.pid for process in of_flink.task_managers]
            ),
            "SparkRunner, local": Engine(spark),
            "SparkRunner, cluster of two": Engine(
                [*of_spark.beam_arguments(), "--sdk_worker_parallelism=1"],
                [process.pid for process in of_spark.workers],
            ),
        }


@contextlib.contextmanager
def _job_service() -> Iterator[Engine]:
    worker = Path(sys.executable).with_name("facemill-worker")
    with job_service() as (endpoint, service), worker_pool(str(worker)) as (pool_address, pool):
        options = ["--runner", "PortableRunner", f"--job_endpoint={endpoint}"]
        options += ["--environment_type=EXTERNAL", f"--environment_config={pool_address}"]
        yield Engine(options, [service.pid, pool.pid])


def _measure(
    engines: dict[str, Engine], archives: Sequence[Path], work: Path, rounds: int
) -> Iterator[tuple[str, Figures]]:
    times: dict[tuple[str, Path], list[float]] = {(name, path): [] for name in engines for path in archives}
    peaks = dict.fromkeys(engines, 0)
    with tqdm(total=rounds * len(times), unit="run", file=sys.stderr) as bar:
        for number in range(rounds):
            for name, path in times:
                bar.set_description_str(f"{name}, {path.name}", refresh=True)
                output = work / f"out-{number}-{path.name}-{abs(hash(name))}"
                seconds, peak = _run(engines[name], path, output)
                times[name, path].append(seconds)
                peaks[name] = max(peaks[name], peak)
                bar.update()
    for name in engines:
        few, units, images = (median(times[name, path]) for path in archives)
        unit_s = (units - few) * NUM_WORKERS / (MORE_UNITS[0] - FEW[0])
        image_s = (images - few) * NUM_WORKERS / (MORE_IMAGES[0] * MORE_IMAGES[1] - FEW[0] * FEW[1])
        start_s = few - (FEW[0] * unit_s + FEW[0] * FEW[1] * image_s) / NUM_WORKERS
        yield name, Figures(start_s, unit_s, image_s, peaks[name])


def _run(engine: Engine, shards: Path, output: Path) -> tuple[float, int]:
    started_at = time.perf_counter()
    command = run_command(shards, output, "--workers", str(NUM_WORKERS), *engine.options)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            workers = [child for pid in (process.pid, *engine.pids) for child in children_of(pid, "facemill-worker")]
            for worker in workers or children_of(process.pid, "spawn_main"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak = max(peak, peak_bytes(worker))
            time.sleep(0.1)
        seconds = time.perf_counter() - started_at
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {log.read()}")
    return seconds, peak


def _report(figures: dict[str, Figures]) -> None:
    local = figures["local mode"]
    print(f"{os.cpu_count()} cores, {NUM_WORKERS} workers; over = more than the local mode takes")
    print("| runner | start s | unit ms | over | image ms | over | worker's peak MB | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, f in figures.items():
        print(
            f"| {name} | {f.start_s:.1f} | {f.unit_s * 1e3:.0f} | {(f.unit_s - local.unit_s) * 1e3:+.0f} "
            f"| {f.image_s * 1e3:.1f} | {(f.image_s - local.image_s) * 1e3:+.1f} "
            f"| {f.peak / _MB:.0f} | {f.peak / local.peak:.2f} |"
        )


if __name__ == "__main__":
    main()
