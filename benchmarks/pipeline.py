"""Times the whole run against the bare loop: the same shards, decoding and models, but no Beam and no output.

    python benchmarks/pipeline.py [--images FOLDER] [--copies N] [--rounds N]

Every figure is of whole processes, from their start to their end, their children's CPU seconds included. The variants
take turns, so that what else the machine does meets them all alike. "Without the start" is what counts on an archive:
CPU seconds less those that one picture takes, and throughput from the start of the first unit to the last commit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm
from workload import Cost, existing, load_pictures, measure, pack_shard, run_command

from facemill.models.cascade import Cascade
from facemill.models.errors import BadInputError
from facemill.models.pyramid import ImagePyramid
from facemill.pipeline.config import Config, load_config
from facemill.transforms.ops.canonical import canonical_crops, canonical_matrices
from facemill.transforms.ops.cutting import cut_crops, place_crops
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.perceptual_hash import perceptual_hash
from facemill.transforms.ops.pose import estimate_pose, interocular_px
from facemill.transforms.ops.quality import QUALITY_COLUMNS, measure_face
from facemill.transforms.ops.records import Faces
from facemill.transforms.ops.shards import iterate_members
from facemill.transforms.ops.verdict import judge_faces

MAX_CPU_RATIO = 1.15
MIN_SPEEDUP = 1.85
PICTURE_WH = (250, 250)  # small pictures, so that what the pipeline adds to each weighs most


@dataclass(frozen=True)
class Round:
    """One measurement of every variant."""

    bare: Cost
    run: Cost
    two_bare: Cost  # two bare loops at once, each over all shards
    two_workers: Cost
    run_window_s: float  # from the start of the first unit to the commit of the last
    two_workers_window_s: float


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Time the whole run against the bare loop.")
    parser.add_argument("--images", type=existing, metavar="FOLDER", help="pictures (default: made of scikit-image's)")
    parser.add_argument("--copies", type=int, default=16, help="how often each picture is used (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=4, help="an even number of equal parts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: %(default)s)")
    parser.add_argument("--bare-loop", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_loop is not None:
        sys.stdout.write(json.dumps(bare_loop(sorted(arguments.bare_loop.glob("*.tar")))))
        return
    pictures = load_pictures(arguments.images, size_wh=PICTURE_WH) * arguments.copies
    with tempfile.TemporaryDirectory() as folder:
        shards, single = Path(folder) / "shards", Path(folder) / "single"
        for number in range(arguments.shards):
            pack_shard(shards / f"{number:04d}.tar", pictures[number :: arguments.shards])
        pack_shard(single / "0.tar", pictures[:1])
        rounds = [_measure_round(shards, Path(folder)) for _ in tqdm(range(arguments.rounds), desc="rounds")]
        starts = [_measure_start(single, Path(folder)) for _ in range(arguments.rounds)]
    _report(rounds, starts, len(pictures))


def bare_loop(shards: Iterable[Path]) -> dict[str, int]:
    """Decode, detect, judge, align and encode everything, and keep only counts."""
    config = load_config()
    cascade = load_cascade(config.detect)
    counts = {"num_images": 0, "num_kept": 0}
    for shard in shards:
        with shard.open("rb") as file:
            for member in iterate_members(file, "tar", limits=config.read.limits):
                counts["num_images"] += 1
                with contextlib.suppress(BadInputError):
                    counts["num_kept"] += len(_make_crops(member.data or b"", cascade, config))
    return counts


def _make_crops(data: bytes, cascade: Cascade, config: Config) -> list[bytes]:
    image = decode_image(data, max_pixels=config.decode.max_pixels, min_side_px=config.decode.min_side_px)
    pyramid = ImagePyramid(image)
    found = cascade.refine(pyramid, cascade.propose(pyramid).boxes)
    image_wh = image.shape[1], image.shape[0]
    to_canonical = canonical_matrices(found.landmarks, image_wh)
    qualities, phashes = [], []
    for crop, matrix, box in zip(canonical_crops(image, to_canonical), to_canonical, found.boxes, strict=True):
        qualities.append(measure_face(crop, matrix, box, image_wh))
        phashes.append(None if crop is None else perceptual_hash(crop))
    faces = Faces(
        found.boxes,
        found.scores,
        found.landmarks,
        estimate_pose(found.landmarks),
        interocular_px(found.landmarks),
        np.array(qualities, np.float32).reshape(-1, len(QUALITY_COLUMNS)),
        tuple(phashes),
    )
    reasons = judge_faces(faces, image_wh=image_wh, options=config.judge)
    templates = config.align.find_templates()
    _, matrices = place_crops(replace(faces, reasons=reasons), templates, image_wh)
    crops = cut_crops(image, matrices, templates, config.align, config.write)
    return [content for contents in crops for content in contents or ()]


def _bare_command(shards: Path) -> list[str]:
    return [sys.executable, __file__, "--bare-loop", str(shards)]


def _measure_round(shards: Path, folder: Path) -> Round:
    bare = measure(_bare_command(shards))
    run, run_window_s = _measure_run(shards, folder, 1, json.loads(bare.outputs[0]))
    two_bare = measure(_bare_command(shards), _bare_command(shards))
    two_workers, two_workers_window_s = _measure_run(shards, folder, 2, json.loads(bare.outputs[0]))
    return Round(bare, run, two_bare, two_workers, run_window_s, two_workers_window_s)


def _measure_run(shards: Path, folder: Path, num_workers: int, expected: Mapping[str, int]) -> tuple[Cost, float]:
    """The cost of a run, and its window; its counts must be those of the bare loop, or the comparison is void."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        cost = measure(run_command(shards, Path(output), "--workers", str(num_workers)))
        paths = list((Path(output) / "_units").glob("*.json"))
        markers = [json.loads(path.read_bytes()) for path in paths]
        ends = [path.stat().st_mtime for path in paths]
    found = {name: sum(marker[name] for marker in markers) for name in expected}
    if found != expected:
        raise RuntimeError(f"the run and the bare loop differ: {found} and {expected}")
    starts = [end - marker["seconds"] for end, marker in zip(ends, markers, strict=True)]
    return cost, max(ends) - min(starts)


def _measure_start(single: Path, folder: Path) -> tuple[Cost, Cost]:
    bare = measure(_bare_command(single))
    return bare, _measure_run(single, folder, 1, json.loads(bare.outputs[0]))[0]


def _report(rounds: list[Round], starts: list[tuple[Cost, Cost]], num_images: int) -> None:
    def middle(value: Callable[[Round], float]) -> float:
        return median(value(r) for r in rounds)

    bare_start_s, run_start_s = (median(costs[i].cpu_s for costs in starts) for i in (0, 1))
    ratio = middle(lambda r: r.run.cpu_s / r.bare.cpu_s)
    steady_ratio = middle(lambda r: (r.run.cpu_s - run_start_s) / (r.bare.cpu_s - bare_start_s))
    speedup = middle(lambda r: r.run.wall_s / r.two_workers.wall_s)
    steady_speedup = middle(lambda r: r.run_window_s / r.two_workers_window_s)
    ceiling = middle(lambda r: 2 * r.bare.wall_s / r.two_bare.wall_s)
    sys.stdout.write(
        f"{num_images} images, medians of {len(rounds)} rounds\n"
        f"CPU ms per image: bare loop {1000 * middle(lambda r: r.bare.cpu_s) / num_images:.2f}, "
        f"whole run {1000 * middle(lambda r: r.run.cpu_s) / num_images:.2f}, "
        f"with two workers {1000 * middle(lambda r: r.two_workers.cpu_s) / num_images:.2f}\n"
        f"CPU s of starting: bare loop {bare_start_s:.2f}, whole run {run_start_s:.2f}\n"
        f"whole run / bare loop, CPU: {ratio:.3f} with the start, {steady_ratio:.3f} without "
        f"(at most {MAX_CPU_RATIO})\n"
        f"two workers / one, throughput: {speedup:.3f} with the start, {steady_speedup:.3f} without "
        f"(at least {MIN_SPEEDUP}); two bare loops at once / one: {ceiling:.3f}\n"
    )


if __name__ == "__main__":
    main()
