"""Simulates an archive on many workers, with the times that units really took.

    python benchmarks/scaling.py [--images FOLDER ... | --runs OUT ... | --times FILE] [--workers N] [--save FILE]

The times come from the commit markers of finished runs (`--runs`), from a file that an earlier call saved (`--times`),
or from a run on an archive that is made here, of one's own pictures (`--images`) or of those that come with
scikit-image. What is measured is kept by shard, so that pictures of one shard stay alike. The tables are Markdown, and
the same for one seed and one file of times.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from simulation import Cluster, Outcome, Units, deal, restart_all, run_bundles
from workload import existing, load_pictures, measure, pack_shard, run_command

from facemill.pipeline.plan import MAX_UNITS, read_plan, size_units
from facemill.pipeline.splitting import choose_scans
from facemill.pipeline.summary import committed_units, read_summaries
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.storage import Folder

UNIFORM = "uniform: 10^9 images in 100,000 shards"
MADE_SIZES_WH = ((250, 250), (500, 375), (800, 600), (1280, 960))
SHARD_PICTURES = 24
MAX_SHARDS_PER_SET = 16
MEASURED_UNITS_PER_SHARD = 4
SPLIT_DRAWS = 5
SCAN_BYTES_PER_S = 0.5e9  # what s3fs takes on one core, its readers together: 2 CPU seconds for 1 GB
_MB, _GB = 1e6, 1e9
_OPTIONS = RunOptions()


@dataclass(frozen=True)
class ShardTimes:
    """What was measured on one shard, unit by unit."""

    num_images: list[int]
    num_bytes: list[int]
    seconds: list[float]

    @property
    def image_bytes(self) -> float:
        return sum(self.num_bytes) / sum(self.num_images)

    @property
    def image_s(self) -> float:
        return sum(self.seconds) / sum(self.num_images)


def main() -> None:
    """Parse, measure, simulate, report."""
    parser = argparse.ArgumentParser(description="Simulate an archive on many workers, with measured unit times.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=existing, nargs="+", metavar="FOLDER", help="pictures to measure on")
    source.add_argument("--runs", type=existing, nargs="+", metavar="OUT", help="outputs of finished runs")
    source.add_argument("--times", type=existing, metavar="FILE", help="times that --save wrote")
    parser.add_argument("--rounds", type=int, default=1, help="runs, of which the least counts (default: %(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where to keep the times")
    parser.add_argument("--workers", type=int, default=1000, help="cores of the cluster (default: %(default)s)")
    parser.add_argument("--slow-share", type=float, default=0.05, help="share of slow workers (default: %(default)s)")
    parser.add_argument("--slow-speed", type=float, default=0.5, help="their speed (default: %(default)s)")
    parser.add_argument("--unit-overhead-s", type=float, default=0.3, help="per unit (default: %(default)s)")
    parser.add_argument("--restart-s", type=float, default=120, help="of a failed worker (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    arguments = parser.parse_args()
    shards = _find_times(arguments)
    if arguments.save is not None:
        save_times(shards, arguments.save)
    cluster = Cluster(
        num_workers=arguments.workers,
        slow_share=arguments.slow_share,
        slow_speed=arguments.slow_speed,
        unit_overhead_s=arguments.unit_overhead_s,
        restart_s=arguments.restart_s,
        seed=arguments.seed,
    )
    sys.stdout.write("\n".join(report(shards, cluster)) + "\n")


def save_times(shards: Sequence[ShardTimes], path: Path) -> None:
    """Write the times as JSON, a line for each shard."""
    lines = ",\n".join(json.dumps(asdict(shard)) for shard in shards)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def load_times(path: Path) -> list[ShardTimes]:
    """What `save_times` wrote."""
    return [ShardTimes(**shard) for shard in json.loads(path.read_text(encoding="utf-8"))]


def _find_times(arguments: argparse.Namespace) -> list[ShardTimes]:
    if arguments.times is not None:
        return load_times(arguments.times)
    if arguments.runs:
        return [shard for output in arguments.runs for shard in read_times(output)]
    with tempfile.TemporaryDirectory() as folder:
        return measure_times(arguments.images, Path(folder), arguments.rounds)


def measure_times(folders: Sequence[Path] | None, work: Path, rounds: int) -> list[ShardTimes]:
    """Pack pictures into shards, neighbours together, run facemill on them with one worker, and read what it took."""
    if folders is None:
        sets = [load_pictures(None, size_wh=size_wh) for size_wh in MADE_SIZES_WH]
    else:
        sets = [load_pictures(folder, size_wh=(0, 0)) for folder in folders]
    times = []
    for number, pictures in enumerate(sets):
        parts = [pictures[i : i + SHARD_PICTURES] for i in range(0, len(pictures), SHARD_PICTURES)]
        shards = [
            pack_shard(work / f"{number}" / f"{part:04d}.tar", parts[part])
            for part in sorted({i * len(parts) // MAX_SHARDS_PER_SET for i in range(MAX_SHARDS_PER_SET)})
        ]
        unit_bytes = sum(shard.stat().st_size for shard in shards) // len(shards) // MEASURED_UNITS_PER_SHARD
        times += _least_times(shards[0].parent, work / f"out-{number}", unit_bytes, rounds)
    return times


def _least_times(shards: Path, output: Path, unit_bytes: int, rounds: int) -> list[ShardTimes]:
    """The least seconds of each unit, as what else the machine does only ever adds to them."""
    found = []
    for number in range(rounds):
        place = output / f"{number}"
        measure(run_command(shards, place, "--workers", "1", "--set", f"run.unit_bytes={unit_bytes}"))
        found.append(read_times(place))
    return [
        replace(same[0], seconds=[min(seconds) for seconds in zip(*(shard.seconds for shard in same), strict=True)])
        for same in zip(*found, strict=True)
    ]


def read_times(output: Path) -> list[ShardTimes]:
    """The times in the commit markers of a run, by shard; each unit of loose files counts as a shard."""
    folder = Folder(str(output))
    plan = read_plan(folder)
    sources = {unit.name: unit.sources[0] for unit in plan.units(plan.names)}
    shards: dict[str, ShardTimes] = {}
    for unit in read_summaries(folder, committed_units(folder)):
        if unit.num_images and unit.num_bytes:
            shard = shards.setdefault(sources[unit.unit], ShardTimes([], [], []))
            shard.num_images.append(unit.num_images)
            shard.num_bytes.append(unit.num_bytes)
            shard.seconds.append(unit.seconds)
    return list(shards.values())


@dataclass(frozen=True)
class Archive:
    """Simulated shards: how many images each holds, and what they are like."""

    num_images: np.ndarray  # (S,)
    image_bytes: np.ndarray  # (S,)
    image_s: np.ndarray  # (S,)
    scatter: np.ndarray  # (S,) standard deviation of the seconds of one image, as a share of their mean

    @property
    def sizes(self) -> np.ndarray:
        """Bytes, (S,)."""
        return self.num_images * self.image_bytes

    @property
    def num_bytes(self) -> float:
        return float(self.sizes.sum())


def make_archive(
    shards: Sequence[ShardTimes], seed: int, *, images: Sequence[float] = (), sizes: Sequence[float] = ()
) -> Archive:
    """Simulated shards of so many images, or of so many bytes, each like a measured one drawn with replacement."""
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(shards), len(images) or len(sizes))
    image_bytes = np.array([shard.image_bytes for shard in shards])[drawn]
    return Archive(
        np.asarray(images, float) if len(images) else np.maximum(1, np.asarray(sizes) / image_bytes),
        image_bytes,
        np.array([shard.image_s for shard in shards])[drawn],
        np.array([_scatter(shard) for shard in shards])[drawn],
    )


def _scatter(shard: ShardTimes) -> float:
    """Units of n images scatter by 1 / sqrt(n) of what one image does, if they are drawn alike."""
    counts = np.array(shard.num_images)
    rates = np.array(shard.seconds) / counts / shard.image_s
    return float(np.sqrt(np.mean((rates - 1) ** 2 * counts)))


def cut(archive: Archive, unit_bytes: float, *, whole: np.ndarray | None = None, seed: int = 0) -> Units:
    """Units of the archive's shards; those over two units' size are split but where `whole`, (S,), says no."""
    sizes = archive.sizes
    parts = np.where(sizes > 2 * unit_bytes, np.ceil(sizes / unit_bytes), 1).astype(int)
    if whole is not None:
        parts[whole] = 1
    shard = np.repeat(np.arange(len(parts)), parts)
    images = (archive.num_images / parts)[shard]
    noise = np.random.default_rng(seed).standard_normal(len(shard)) * archive.scatter[shard] / np.sqrt(images)
    seconds = images * archive.image_s[shard] * np.maximum(0.1, 1 + noise)
    return Units(num_bytes=images * archive.image_bytes[shard], seconds=seconds)


def planned(archive: Archive, **options: np.ndarray) -> Units:
    """Units as facemill's plan cuts them, where every shard can be split."""
    sizes = [int(size) for size in archive.sizes]
    return cut(archive, size_units(sizes, _OPTIONS).unit_bytes, **options)


def archives(shards: Sequence[ShardTimes], seed: int) -> dict[str, Archive]:
    """The archives of the report."""
    heavy = np.random.default_rng(seed).lognormal(0, 1.5, 10_000)
    return {
        UNIFORM: make_archive(shards, seed, images=[10_000.0] * 100_000),
        "uniform: 10^7 images in 10,000 shards": make_archive(shards, seed, images=[1000.0] * 10_000),
        "skewed: one shard of 5 GB, 2,000 of 100 MB": make_archive(shards, seed, sizes=[5 * _GB] + [0.1 * _GB] * 2000),
        "heavy tail: 10,000 shards of 300 GB": make_archive(shards, seed, sizes=heavy / heavy.sum() * 300 * _GB),
        "few: 40 shards of 1 GB": make_archive(shards, seed, sizes=[_GB] * 40),
    }


def report(shards: Sequence[ShardTimes], cluster: Cluster) -> Iterator[str]:
    """All tables."""
    made = archives(shards, cluster.seed)
    yield from _measured(shards)
    yield f"\n{cluster}"
    yield from _by_policy(made, cluster)
    yield from _by_policy(made, replace(cluster, slow_share=0.0))
    yield from _by_partitions(made, cluster)
    yield from _by_unit_size(made[UNIFORM], cluster)
    yield from _by_max_units(made[UNIFORM], cluster)
    yield from _by_split_rule(made, cluster)
    yield from _by_failures(made[UNIFORM], cluster)


def _measured(shards: Sequence[ShardTimes]) -> Iterator[str]:
    image_ms = np.array([shard.image_s for shard in shards]) * 1e3
    image_kb = np.array([shard.image_bytes for shard in shards]) / 1e3
    rate = np.array([shard.image_s / shard.image_bytes for shard in shards]) * _MB
    num_images, num_units = sum(sum(s.num_images) for s in shards), sum(len(s.seconds) for s in shards)
    yield f"measured: {num_images:,} images in {num_units:,} units of {len(shards)} shards\n"
    yield from _head("of a shard", "least", "median", "mean", "most")
    for name, values in (("ms per image", image_ms), ("KB per image", image_kb), ("s per MB", rate)):
        figures = (values.min(), np.median(values), values.mean(), values.max())
        yield _row(name, *(f"{figure:.3g}" for figure in figures))
    scatter = np.mean([_scatter(shard) for shard in shards])
    yield f"\nscatter of single images within a shard: {scatter:.2f} of their mean"


def policies(units: Units, cluster: Cluster) -> dict[str, Outcome]:
    """How the engines hand out units."""
    workers = cluster.num_workers
    order = units.largest_first()
    random = np.random.default_rng(cluster.seed)
    hashed = units[random.permutation(len(units))].seconds
    return {
        "queue": run_bundles(order.one_by_one(), cluster),
        "queue, plan order": run_bundles(units.one_by_one(), cluster),
        "8 partitions a core": run_bundles(deal(order.seconds, 8 * workers), cluster),
        "round robin": run_bundles(deal(order.seconds, workers), cluster),
        "round robin, plan order": run_bundles(deal(units.seconds, workers), cluster),
        "hash": run_bundles([hashed[places] for places in _scatter_places(len(units), workers, random)], cluster),
    }


def _scatter_places(num_units: int, num_workers: int, random: np.random.Generator) -> list[np.ndarray]:
    worker = random.integers(0, num_workers, num_units)
    return np.split(np.argsort(worker, kind="stable"), np.cumsum(np.bincount(worker, minlength=num_workers))[:-1])


def _by_policy(made: dict[str, Archive], cluster: Cluster) -> Iterator[str]:
    yield f"\n## Policies, {cluster.slow_share:.0%} of the workers slow: makespan / ideal (the tail's share of it)\n"
    for row, (name, archive) in enumerate(made.items()):
        units = planned(archive)
        ideal_s = cluster.ideal_s(units.seconds)
        outcomes = policies(units, cluster)
        if row == 0:
            yield from _head("archive", "units", "ideal, s", *outcomes)
        cells = (f"{o.makespan_s / ideal_s:.2f} ({o.tail_s / o.makespan_s:.0%})" for o in outcomes.values())
        yield _row(name, f"{len(units):,}", f"{ideal_s:,.0f}", *cells)


def _head(*cells: object) -> Iterator[str]:
    yield _row(*cells)
    yield "|" + " --- |" * len(cells)


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _by_unit_size(archive: Archive, cluster: Cluster) -> Iterator[str]:
    part = merge(archive, 10, stop=10_000)
    yield f"\n## Unit size: {part.num_images.sum():.0e} images, {part.num_bytes / _GB:.0f} GB; makespan / ideal\n"
    yield from _head("unit, MiB", "units", "median, s", "queue", "8 partitions a core", "round robin")
    for mib in (1, 4, 8, 16, 64, 256, 1024):
        units = cut(part, mib * 2**20).largest_first()
        ideal_s = cluster.ideal_s(units.seconds)
        bundles = (units.one_by_one(), *(deal(units.seconds, n * cluster.num_workers) for n in (8, 1)))
        cells = (f"{run_bundles(parts, cluster).makespan_s / ideal_s:.2f}" for parts in bundles)
        yield _row(mib, f"{len(units):,}", f"{np.median(units.seconds):.1f}", *cells)


def merge(archive: Archive, count: int, stop: int | None = None) -> Archive:
    """Shards of `count` times the size, of the first `stop` shards; each is like the first of those it is made of."""
    first = slice(None, stop, count)
    images = archive.num_images[:stop].reshape(-1, count).sum(axis=1)
    return Archive(images, archive.image_bytes[first], archive.image_s[first], archive.scatter[first])


def _by_max_units(archive: Archive, cluster: Cluster) -> Iterator[str]:
    yield f"\n## Number of units: {archive.num_images.sum():.0e} images, {archive.num_bytes / 1e12:.0f} TB\n"
    yield from _head("at most about", "units", "mean, s", "queue", "plan order", "round robin", "objects written")
    for max_units in (10_000, 30_000, MAX_UNITS, 300_000, 600_000):
        units = cut(merge(archive, max(1, MAX_UNITS // max_units // 2 * 2)), archive.num_bytes / max_units)
        ideal_s = cluster.ideal_s(units.seconds)
        order = units.largest_first()
        parts = (order.one_by_one(), units.one_by_one(), deal(order.seconds, cluster.num_workers))
        cells = (f"{run_bundles(part, cluster).makespan_s / ideal_s:.3f}" for part in parts)
        yield _row(f"{max_units:,}", f"{len(units):,}", f"{units.seconds.mean():,.0f}", *cells, f"{4 * len(units):,}")


def _by_split_rule(made: dict[str, Archive], cluster: Cluster) -> Iterator[str]:
    yield f"\n## Tars on an object store, read at {SCAN_BYTES_PER_S / _GB:.1f} GB/s in order to split them\n"
    yield f"(reading + makespan) / ideal, mean of {SPLIT_DRAWS} draws of the slow workers (GB read)\n"
    for row, (name, archive) in enumerate(made.items()):
        if name == UNIFORM:
            continue
        rules = scan_rules([int(size) for size in archive.sizes])
        if row == 1:
            yield from _head("archive", "workers", *rules)
        for workers in (16, 100, cluster.num_workers):
            smaller = replace(cluster, num_workers=workers)
            yield _row(name, workers, *(_scan_cell(archive, chosen, smaller) for chosen in rules.values()))


def scan_rules(sizes: Sequence[int]) -> dict[str, list[int]]:
    """Which tars are read in order to split them, by facemill's rule and by others."""

    def over(share: int, least: int) -> list[int]:
        return [index for index, size in enumerate(sizes) if size > max(sum(sizes) // share, least)]

    return {
        "none": [],
        "over 1/64 and 256 MiB": over(64, 256 << 20),
        "over 1/1000 and 64 MiB": over(1000, 64 << 20),
        "over 64 MiB": over(sum(sizes), 64 << 20),
        "facemill's": choose_scans(sizes, 0, _OPTIONS.scan_bytes),
        "facemill's, scan_bytes without bound": choose_scans(sizes, 0),
    }


def _scan_cell(archive: Archive, chosen: list[int], cluster: Cluster) -> str:
    whole = np.ones(len(archive.sizes), bool)
    whole[chosen] = False
    units = planned(archive, whole=whole).largest_first()
    num_read = float(archive.sizes[chosen].sum())
    draws = [replace(cluster, seed=cluster.seed + number) for number in range(SPLIT_DRAWS)]
    makespan_s = float(np.mean([run_bundles(units.one_by_one(), draw).makespan_s for draw in draws]))
    total_s = makespan_s + num_read / SCAN_BYTES_PER_S
    return f"{total_s / cluster.ideal_s(units.seconds):.2f} ({num_read / _GB:,.0f})"


def _by_partitions(made: dict[str, Archive], cluster: Cluster) -> Iterator[str]:
    counts = (1, 2, 4, 8, 16, 32)
    yield "\n## Partitions for each core, units dealt to them largest first, tasks from a queue: makespan / ideal\n"
    yield from _head("archive", *counts, "a partition for each unit")
    for name, archive in made.items():
        order = planned(archive).largest_first()
        parts = (*(deal(order.seconds, count * cluster.num_workers) for count in counts), order.one_by_one())
        ideal_s = cluster.ideal_s(order.seconds)
        yield _row(name, *(f"{run_bundles(part, cluster).makespan_s / ideal_s:.2f}" for part in parts))


def _by_failures(archive: Archive, cluster: Cluster) -> Iterator[str]:
    yield "\n## Failures: 10^9 images, makespan / ideal\n"
    names = ("queue", "8 partitions a core", "round robin", "round robin, where one failure starts all again")
    yield from _head("a worker fails every", "unit, s", *names)
    for max_units in (MAX_UNITS, 3 * MAX_UNITS):
        units = cut(archive, archive.num_bytes / max_units).largest_first()
        ideal_s = cluster.ideal_s(units.seconds)
        dealt = deal(units.seconds, cluster.num_workers)
        for hours in (1000, 100, 10):
            failing = replace(cluster, failures_per_hour=1 / hours)
            parts = (units.one_by_one(), deal(units.seconds, 8 * cluster.num_workers), dealt)
            cells = [f"{run_bundles(part, failing).makespan_s / ideal_s:.2f}" for part in parts]
            again_s = restart_all(dealt, failing, give_up_s=10 * ideal_s)
            cells.append("over 10" if again_s is None else f"{again_s / ideal_s:.2f}")
            yield _row(f"{hours} h", f"{units.seconds.mean():.0f}", *cells)


if __name__ == "__main__":
    main()
